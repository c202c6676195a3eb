package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/idem-go/idem/driver"
)

// defaultLimit is the length of a page where none is asked for.
const defaultLimit = 100

// record is a record as it is shown.
type record struct {
	Scope string `json:"scope"`
	Key   string `json:"key"`
	// Path is where the record is found here; empty when its names are gone.
	Path string `json:"path,omitempty"`
	// Hash is what logs show of the key.
	Hash    string  `json:"hash"`
	State   string  `json:"state"`
	Token   uint64  `json:"token"`
	Attempt int     `json:"attempt"`
	Age     float64 `json:"age_seconds"`
	Left    float64 `json:"left_seconds"`
	Dropped bool    `json:"dropped"`
	Note    string  `json:"note"`

	Response *response `json:"response,omitempty"`
	Result   *result   `json:"result,omitempty"`
}

// response is a stored response; JSON has its body in base64.
type response struct {
	Status  int         `json:"status"`
	Headers http.Header `json:"headers"`
	Trailer http.Header `json:"trailers,omitempty"`
	Body    []byte      `json:"body"`
}

// result is a stored result that is not a response; both parts in base64.
type result struct {
	Meta []byte `json:"meta"`
	Body []byte `json:"body"`
}

func show(rec *driver.Record) record {
	r := record{
		Scope: rec.Scope, Key: rec.ID, Hash: rec.Key.Short(), State: rec.State.String(),
		Token: rec.Token, Attempt: rec.Attempt, Age: seconds(rec.Age), Left: seconds(rec.Left),
		Dropped: rec.Dropped, Note: rec.Note,
	}
	if driver.KeyOf(rec.Scope, rec.ID) == rec.Key {
		r.Path = recordsPath + "/" + escape(rec.Scope) + "/" + escape(rec.ID)
	}
	return r
}

// escape encodes a name as one segment, dots too where they would be taken for
// a way up.
func escape(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// list answers GET /v1/records.
func (a *admin) list(w http.ResponseWriter, r *http.Request) {
	if a.lister == nil {
		refuse(http.StatusNotImplemented, "This store cannot list its records.").write(w)
		return
	}
	q, p := query(r.URL.RawQuery)
	if p != nil {
		p.write(w)
		return
	}
	ctx, cancel := a.storeContext(r)
	defer cancel()
	page, err := a.lister.List(ctx, q)
	if err != nil {
		a.storeProblem(err).write(w)
		return
	}
	answer := struct {
		Records []record `json:"records"`
		Next    string   `json:"next"`
	}{Records: make([]record, 0, len(page.Records)), Next: page.Next}
	for i := range page.Records {
		answer.Records = append(answer.Records, show(&page.Records[i]))
	}
	writeJSON(w, http.StatusOK, answer)
}

func query(raw string) (driver.Query, *problem) {
	q := driver.Query{Limit: defaultLimit}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, refuse(http.StatusBadRequest, "The query cannot be read: percent-encode its values.")
	}
	for name, vs := range values {
		if len(vs) > 1 && name != "state" {
			return q, refuse(http.StatusBadRequest, fmt.Sprintf("The parameter %q is there more than once.", name))
		}
		switch name {
		case "state":
			for _, v := range vs {
				for _, word := range strings.Split(v, ",") {
					s, ok := stateOf(word)
					if !ok {
						return q, refuse(http.StatusBadRequest, "state takes in-flight, completed, unknown and forgotten, several with commas between.")
					}
					q.States = append(q.States, s)
				}
			}
		case "scope":
			q.Scope = vs[0]
		case "after":
			q.After = vs[0]
		case "limit":
			n, err := strconv.Atoi(vs[0])
			if err != nil || n < 1 || n > 1000 {
				return q, refuse(http.StatusBadRequest, "limit takes a number from 1 to 1000.")
			}
			q.Limit = n
		default:
			return q, refuse(http.StatusBadRequest, fmt.Sprintf("There is no parameter %q; there are state, scope, limit and after.", name))
		}
	}
	return q, nil
}

func stateOf(word string) (driver.State, bool) {
	for _, s := range []driver.State{driver.StateInFlight, driver.StateCompleted, driver.StateUnknown, driver.StateForgotten} {
		if s.String() == word {
			return s, true
		}
	}
	return 0, false
}

// record serves what lies below /v1/records/. The path is taken as it was sent:
// an encoded slash belongs to its segment.
func (a *admin) record(w http.ResponseWriter, r *http.Request, rest string) {
	parts := strings.Split(rest, "/")
	if len(parts) < 2 || len(parts) > 3 {
		refuse(http.StatusNotFound, "A record is at /v1/records/{scope}/{key}, each percent-encoded, a slash as %2F; the list gives its path.").write(w)
		return
	}
	scope, err1 := url.PathUnescape(parts[0])
	id, err2 := url.PathUnescape(parts[1])
	if err1 != nil || err2 != nil {
		refuse(http.StatusBadRequest, "The path cannot be read: percent-encode scope and key.").write(w)
		return
	}
	if len(scope) > driver.MaxName || len(id) > driver.MaxName {
		refuse(http.StatusNotFound, "There is no such record.").write(w)
		return
	}
	if len(parts) == 2 {
		a.reading(w, r, func(w http.ResponseWriter, r *http.Request) { a.lookup(w, r, scope, id) })
		return
	}
	act := map[string]func(http.ResponseWriter, *http.Request, string, string){"release": a.release, "complete": a.complete}[parts[2]]
	if act == nil {
		refuse(http.StatusNotFound, "A record can be sent to .../release and .../complete.").write(w)
		return
	}
	if r.Method != http.MethodPost {
		methodNotAllowed(w, http.MethodPost)
		return
	}
	act(w, r, scope, id)
}

// lookup answers GET /v1/records/{scope}/{key}.
func (a *admin) lookup(w http.ResponseWriter, r *http.Request, scope, id string) {
	ctx, cancel := a.storeContext(r)
	defer cancel()
	rec, err := a.store.Lookup(ctx, driver.KeyOf(scope, id))
	switch {
	case err != nil:
		a.storeProblem(err).write(w)
	case rec.State == driver.StateAbsent:
		notFound().write(w)
	default:
		writeJSON(w, http.StatusOK, detail(&rec, scope, id))
	}
}

// detail shows a record with its names, which whoever asks has told, and with
// its result.
func detail(rec *driver.Record, scope, id string) record {
	named := *rec
	named.Key, named.Scope, named.ID = driver.KeyOf(scope, id), scope, id
	out := show(&named)
	if rec.State != driver.StateCompleted || rec.Dropped {
		return out
	}
	res, err := storedResponse(rec.Result)
	if err != nil {
		out.Result = &result{Meta: rec.Result.Meta, Body: rec.Result.Body}
		return out
	}
	out.Response = res
	return out
}

func notFound() *problem {
	return refuse(http.StatusNotFound, "There is no record of this scope and key.")
}

// storeProblem answers an error of the store that says nothing of the record's
// state. What the store said goes to the log alone.
func (a *admin) storeProblem(err error) *problem {
	var unreadable *driver.UnreadableError
	switch {
	case errors.As(err, &unreadable):
		a.opts.Logger.Error("admin: a record cannot be read", "error", err)
		return refuse(http.StatusInternalServerError, "The record is there and cannot be read; the log says why.")
	case errors.Is(err, driver.ErrInvalid):
		return refuse(http.StatusBadRequest, "The store does not take this: a value is out of bounds, or after is not the next of a page before.")
	}
	a.opts.Logger.Warn("admin: the store does not answer", "error", err)
	return refuse(http.StatusServiceUnavailable, "The store does not answer; the log says why.")
}
