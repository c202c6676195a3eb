package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/idem-go/idem/driver"
)

// bodyRoom is what a completion's JSON may take besides its response.
const bodyRoom = 64 << 10

// release answers POST …/release: the operation was not done.
func (a *admin) release(w http.ResponseWriter, r *http.Request, scope, id string) {
	force, token, p := conditions(r.URL.RawQuery, true)
	if p == nil {
		p = decode(w, r, bodyRoom, &struct{}{}, true)
	}
	if p != nil {
		p.write(w)
		return
	}
	a.resolve(w, r, scope, id, driver.Resolution{Action: driver.ResolveRelease, Force: force, Token: token}, "released")
}

// complete answers POST …/complete: the operation was done, and this is its
// response.
func (a *admin) complete(w http.ResponseWriter, r *http.Request, scope, id string) {
	_, token, p := conditions(r.URL.RawQuery, false)
	var in response
	if p == nil {
		p = decode(w, r, int64(a.opts.MaxResponse)*2+bodyRoom, &in, false)
	}
	if p == nil {
		p = in.check()
	}
	if p != nil {
		p.write(w)
		return
	}
	res := in.stored()
	if res.Size() > a.opts.MaxResponse {
		tooLarge(a.opts.MaxResponse).write(w)
		return
	}
	a.resolve(w, r, scope, id, driver.Resolution{Action: driver.ResolveComplete, Result: res, Token: token}, "completed")
}

// conditions reads force and token, the only parameters there are.
func conditions(raw string, mayForce bool) (force bool, token uint64, p *problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return false, 0, refuse(http.StatusBadRequest, "The query cannot be read: percent-encode its values.")
	}
	for name, vs := range values {
		switch {
		case len(vs) > 1:
			err = strconv.ErrSyntax
		case name == "force" && mayForce:
			force, err = strconv.ParseBool(vs[0])
		case name == "token":
			token, err = strconv.ParseUint(vs[0], 10, 64)
		default:
			return false, 0, refuse(http.StatusBadRequest, fmt.Sprintf("There is no parameter %q here.", name))
		}
		if err != nil {
			return false, 0, refuse(http.StatusBadRequest, fmt.Sprintf("The parameter %q cannot be read: force takes true or false, token a number, each once.", name))
		}
	}
	return force, token, nil
}

// decode reads one JSON value of a known shape, and nothing after it.
func decode(w http.ResponseWriter, r *http.Request, limit int64, into any, optional bool) *problem {
	body := http.MaxBytesReader(w, r.Body, limit)
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if optional && errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = fmt.Errorf("admin: there is more after the JSON value: %w", err)
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return tooLarge(int(limit))
	}
	if optional {
		return refuse(http.StatusBadRequest, "Send no body, or an empty JSON object.")
	}
	return refuse(http.StatusBadRequest, `The body cannot be read: send one JSON object such as {"status": 201, "headers": {"Content-Type": ["application/json"]}, "body": "eyJpZCI6N30="}, its body in base64.`)
}

func tooLarge(limit int) *problem {
	return refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("The response is larger than the %d bytes that are taken; --max-stored-response sets the limit of what is stored.", limit))
}

// check refuses a response that could not have been a service's answer.
func (r *response) check() *problem {
	if r.Status < 200 || r.Status > 599 {
		return refuse(http.StatusBadRequest, "status takes the status of a final response, 200 to 599.")
	}
	if len(r.Body) > 0 && (r.Status == http.StatusNoContent || r.Status == http.StatusNotModified) {
		return refuse(http.StatusBadRequest, fmt.Sprintf("A response with status %d has no body.", r.Status))
	}
	for _, h := range []*http.Header{&r.Headers, &r.Trailer} {
		canonical := make(http.Header, len(*h))
		for name, values := range *h {
			if !isToken(name) {
				return refuse(http.StatusBadRequest, "A header's name holds a character that no header's name may hold.")
			}
			for _, v := range values {
				if !isFieldValue(v) {
					return refuse(http.StatusBadRequest, "A header's value holds a control character.")
				}
			}
			name = http.CanonicalHeaderKey(name)
			if _, twice := canonical[name]; twice {
				return refuse(http.StatusBadRequest, "A header is there in two spellings; give its values in one list.")
			}
			canonical[name] = values
		}
		// The length is the body's, whatever was said.
		delete(canonical, "Content-Length")
		*h = canonical
	}
	return nil
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		digit := c >= '0' && c <= '9'
		if !letter && !digit && !isTokenMark(c) {
			return false
		}
	}
	return s != ""
}

func isTokenMark(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}

func isFieldValue(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// resolve carries a resolution out and answers with the record as it is then.
func (a *admin) resolve(w http.ResponseWriter, r *http.Request, scope, id string, res driver.Resolution, did string) {
	if a.resolver == nil {
		refuse(http.StatusNotImplemented, "The records of this store cannot be resolved here.").write(w)
		return
	}
	key := driver.KeyOf(scope, id)
	res.Retention, res.Tombstone = a.opts.Retention, a.opts.Tombstone
	res.Note = did + " by the admin interface at " + time.Now().UTC().Format(time.RFC3339)
	ctx, cancel := a.storeContext(r)
	defer cancel()
	rec, err := a.resolver.Resolve(ctx, key, res)
	switch {
	case err == nil:
		a.opts.Logger.Info("admin: record "+did, "key", key.Short(), "token", rec.Token, "forced", res.Force)
		writeJSON(w, http.StatusOK, detail(&rec, scope, id))
		return
	case errors.Is(err, driver.ErrTooLarge):
		refuse(http.StatusRequestEntityTooLarge, "The response is larger than the store keeps.").write(w)
		return
	case !errors.Is(err, driver.ErrState) && !errors.Is(err, driver.ErrLost):
		a.storeProblem(err).write(w)
		return
	}
	now, lookupErr := a.store.Lookup(ctx, key)
	if lookupErr != nil {
		a.storeProblem(lookupErr).write(w)
		return
	}
	refusal(now.State, errors.Is(err, driver.ErrLost), res.Action).write(w)
}

// refusal says why a record in this state was not resolved.
func refusal(state driver.State, otherToken bool, action driver.Action) *problem {
	switch {
	case state == driver.StateAbsent:
		return notFound()
	case otherToken:
		return refuse(http.StatusConflict, "The record has another token: its key was claimed again since. Look it up once more.")
	case state == driver.StateInFlight && action == driver.ResolveRelease:
		return refuse(http.StatusConflict, "The operation is in flight, and its owner alive. Wait for its end; if it is certain that nothing runs, release it with ?force=true.")
	case state == driver.StateInFlight:
		return refuse(http.StatusConflict, "The operation is in flight, and its owner alive. Only an unknown outcome can be completed.")
	case state == driver.StateUnknown:
		return refuse(http.StatusConflict, "The record has changed meanwhile. Look it up once more.")
	}
	return refuse(http.StatusConflict, "The record is "+state.String()+". Only an unknown outcome can be resolved.")
}
