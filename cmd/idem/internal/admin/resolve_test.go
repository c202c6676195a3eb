package admin_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/cmd/idem/internal/admin"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

func TestRelease(t *testing.T) {
	d := newDesk(t, nil)
	d.unknown("s", "u")
	r := decodeInto[shown](t, d.want(d.ask("POST", "/v1/records/s/u/release", ""), 200))
	if r.State != "absent" || r.Scope != "s" || r.Key != "u" || r.Attempt != 1 {
		t.Errorf("released: %+v", r)
	}
	note := strings.TrimPrefix(d.lookup("s", "u").Note, "released by the admin interface at ")
	if at, err := time.Parse(time.RFC3339, note); err != nil || time.Since(at) > time.Hour {
		t.Errorf("the note does not say when: %q", note)
	}

	d.claim("s", "running")
	a := d.want(d.ask("POST", "/v1/records/s/running/release", ""), 409)
	if !strings.Contains(a.body, "force=true") {
		t.Errorf("the way out is not named: %s", a.body)
	}
	if d.lookup("s", "running").State != driver.StateInFlight {
		t.Error("a refused release changed the record")
	}
	d.want(d.ask("POST", "/v1/records/s/running/release?force=false", ""), 409)
	d.want(d.ask("POST", "/v1/records/s/running/release?force=true", "{}"), 200)
	if d.lookup("s", "running").State != driver.StateAbsent {
		t.Error("a forced release did not release")
	}

	d.completed("s", "done", driver.Result{})
	d.want(d.ask("POST", "/v1/records/s/done/release?force=true", ""), 409)
	d.want(d.ask("POST", "/v1/records/s/nothing/release", ""), 404)
	d.unknown("s", "u2")
	for _, bad := range []string{"?force=perhaps", "?token=x", "?forced=true", "?force=true&force=false"} {
		d.want(d.ask("POST", "/v1/records/s/u2/release"+bad, ""), 400)
	}
	d.want(d.ask("POST", "/v1/records/s/u2/release", `{"force": true}`), 400)
	if d.lookup("s", "u2").State != driver.StateUnknown {
		t.Error("a refused release changed the record")
	}
}

// A record that was claimed again since it was looked at is left alone.
func TestReleaseOfAnOldToken(t *testing.T) {
	d := newDesk(t, nil)
	old := d.unknown("s", "k")
	d.want(d.ask("POST", "/v1/records/s/k/release", ""), 200)
	now := d.unknown("s", "k")
	d.want(d.ask("POST", fmt.Sprintf("/v1/records/s/k/release?token=%d", old.Token), ""), 409)
	if d.lookup("s", "k").State != driver.StateUnknown {
		t.Fatal("the record of another claim was released")
	}
	d.want(d.ask("POST", fmt.Sprintf("/v1/records/s/k/release?token=%d", now.Token), ""), 200)
}

func TestCompleteRefusals(t *testing.T) {
	d := newDesk(t, &admin.Options{MaxResponse: 1000})
	d.unknown("s", "u")
	const path = "/v1/records/s/u/complete"
	for name, body := range map[string]string{
		"nothing":              "",
		"no JSON":              "status=201",
		"no status":            `{}`,
		"status text":          `{"status": "201"}`,
		"1xx":                  `{"status": 103}`,
		"600":                  `{"status": 600}`,
		"unknown member":       `{"status": 201, "state": "completed"}`,
		"two values":           `{"status": 201}{"status": 202}`,
		"garbage after":        `{"status": 201} x`,
		"body not base64":      `{"status": 201, "body": "{\"id\":7}"}`,
		"headers not lists":    `{"status": 201, "headers": {"A": "b"}}`,
		"header name":          `{"status": 201, "headers": {"A B": ["b"]}}`,
		"header without name":  `{"status": 201, "headers": {"": ["b"]}}`,
		"header splitting":     `{"status": 201, "headers": {"A": ["b\r\nSet-Cookie: x"]}}`,
		"header twice":         `{"status": 201, "headers": {"a": ["1"], "A": ["2"]}}`,
		"a body with 204":      `{"status": 204, "body": "` + b64("x") + `"}`,
		"trailer with newline": `{"status": 201, "trailers": {"A": ["\n"]}}`,
	} {
		if a := d.ask("POST", path, body, jsonType); a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		} else {
			d.want(a, 400)
		}
	}
	d.want(d.ask("POST", path+"?force=true", `{"status": 201}`), 400)
	d.want(d.ask("POST", path, `{"status": 201, "body": "`+b64(strings.Repeat("x", 1001))+`"}`), 413)
	d.want(d.ask("POST", path, `{"status": 201, "body": "`+strings.Repeat("A", 1<<20)+`"}`), 413)
	if d.lookup("s", "u").State != driver.StateUnknown {
		t.Error("a refused completion changed the record")
	}

	d.claim("s", "running")
	d.want(d.ask("POST", "/v1/records/s/running/complete", `{"status": 201}`), 409)
	d.completed("s", "done", driver.Result{})
	d.want(d.ask("POST", "/v1/records/s/done/complete", `{"status": 201}`), 409)
	d.want(d.ask("POST", "/v1/records/s/nothing/complete", `{"status": 201}`), 404)
}

// An operator who knows what became of an operation gives its answer, and the
// retry gets it, while the work does not run again.
func TestCompletedRecordIsReplayed(t *testing.T) {
	d := newDesk(t, nil)
	guard := idem.New(d.store, nil)
	runs := 0
	service := httptest.NewServer(idemhttp.New(guard, &idemhttp.Options{Principal: idemhttp.NoPrincipal()})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			runs++
			idemhttp.SetOutcome(w, idemhttp.OutcomeUnknown)
			w.WriteHeader(http.StatusBadGateway)
		})))
	defer service.Close()
	post := func() answer {
		req, _ := http.NewRequest("POST", service.URL+"/users", strings.NewReader(`{"name":"ann"}`))
		req.Header.Set("Idempotency-Key", "k-1")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{res.StatusCode, res.Header, string(b)}
	}
	if first := post(); first.status != http.StatusBadGateway {
		t.Fatalf("first: %+v", first)
	}
	if second := post(); second.status != http.StatusConflict {
		t.Fatalf("unknown: %+v", second)
	}
	page := decodeInto[list](t, d.want(d.ask("GET", "/v1/records?state=unknown", ""), 200))
	if len(page.Records) != 1 {
		t.Fatalf("listed: %+v", page)
	}
	a := d.want(d.ask("POST", page.Records[0].Path+"/complete",
		`{"status": 201, "headers": {"content-type": ["application/json"], "Location": ["/users/7"], "Content-Length": ["999"], "Connection": ["close"]}, "body": "`+b64(`{"id":7}`)+`"}`), 200)
	if r := decodeInto[shown](t, a); r.State != "completed" || r.Response == nil || r.Response.Status != 201 || r.Note == nil || !strings.HasPrefix(*r.Note, "completed by the admin interface at ") {
		t.Errorf("completed: %s", a.body)
	}
	replay := post()
	if replay.status != 201 || replay.body != `{"id":7}` || replay.header.Get("Location") != "/users/7" ||
		replay.header.Get("Content-Type") != "application/json" || replay.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("replay: %+v", replay)
	}
	if runs != 1 {
		t.Errorf("the work ran %d times", runs)
	}
	if strings.Contains(d.log.String(), "k-1") || !strings.Contains(d.log.String(), driver.KeyOf(page.Records[0].Scope, "k-1").Short()) {
		t.Errorf("the log names the key, or not its hash: %s", d.log)
	}
}

func jsonType(r *http.Request) { r.Header.Set("Content-Type", "application/json") }
