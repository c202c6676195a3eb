package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// service starts the service on a socket, behind idem where dsn names a store.
func service(t *testing.T, dsn string, delay time.Duration) *client {
	t.Helper()
	return serviceOn(t, filepath.Join(t.TempDir(), "users 100%?.db"), dsn, delay)
}

// serviceOn is service with users in a database that is given.
func serviceOn(t *testing.T, db, dsn string, delay time.Duration) *client {
	t.Helper()
	tab, err := openTable(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	h, closeIdem, err := protect(t.Context(), newHandler(tab, delay), tab, dsn)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.Close()
		if err := closeIdem(); err != nil {
			t.Errorf("closing idem: %v", err)
		}
		if err := tab.Close(); err != nil {
			t.Errorf("closing the table: %v", err)
		}
	})
	return &client{t: t, base: srv.URL, http: srv.Client()}
}

// client sends requests and fails the test where no answer comes.
type client struct {
	t    *testing.T
	base string
	http *http.Client
}

type reply struct {
	status int
	header http.Header
	body   string
}

// send sends one request; a key that is not empty goes with it.
func (c *client) send(method, path, key, body string) reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return reply{status: res.StatusCode, header: res.Header, body: string(b)}
}

// want sends one request and checks the status of its answer.
func (c *client) want(status int, method, path, key, body string) reply {
	c.t.Helper()
	r := c.send(method, path, key, body)
	if r.status != status {
		c.t.Fatalf("%s %s: %d %s, want %d", method, path, r.status, r.body, status)
	}
	return r
}

func (c *client) users(query string) []user {
	c.t.Helper()
	var users []user
	r := c.want(http.StatusOK, http.MethodGet, "/users"+query, "", "")
	if err := json.Unmarshal([]byte(r.body), &users); err != nil {
		c.t.Fatal(err)
	}
	return users
}

// only returns the one user there is.
func (c *client) only() user {
	c.t.Helper()
	users := c.users("")
	if len(users) != 1 {
		c.t.Fatalf("%d users, want 1: %v", len(users), users)
	}
	return users[0]
}

const ada = `{"name": "Ada", "email": "ada@example.com", "age": 36}`

func TestPostTwiceMakesTwoUsers(t *testing.T) {
	c := service(t, "", 0)
	first := c.want(http.StatusCreated, http.MethodPost, "/users", "key-1", ada)
	second := c.want(http.StatusCreated, http.MethodPost, "/users", "key-1", ada)
	if n := len(c.users("?email=ada@example.com")); n != 2 {
		t.Errorf("%d users, want 2: nothing here knows the key", n)
	}
	if a, b := first.header.Get("Location"), second.header.Get("Location"); a != "/users/1" || b != "/users/2" {
		t.Errorf("locations %q and %q", a, b)
	}
}

func TestAgeAddTwiceAddsTwo(t *testing.T) {
	c := service(t, "", 0)
	c.want(http.StatusCreated, http.MethodPost, "/users", "", ada)
	for range 2 {
		c.want(http.StatusOK, http.MethodPatch, "/users/1", "key-1", `{"age_add": 1}`)
	}
	if age := c.only().Age; age != 38 {
		t.Errorf("age %d, want 38: nothing here knows the key", age)
	}
}

// What is idempotent by nature leaves the same users when it is sent again,
// without idem and behind it.
func TestSentTwiceByNature(t *testing.T) {
	tests := []struct {
		name, method, body string
		want               []user
	}{
		{"PUT", http.MethodPut, `{"name": "Ada L.", "email": "ada@example.com", "age": 37}`,
			[]user{{1, "Ada L.", "ada@example.com", 37}}},
		{"PATCH that sets", http.MethodPatch, `{"age": 30}`, []user{{1, "Ada", "ada@example.com", 30}}},
		{"DELETE", http.MethodDelete, "", []user{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := service(t, "", 0)
			c.want(http.StatusCreated, http.MethodPost, "/users", "", ada)
			for i := range 2 {
				c.send(tt.method, "/users/1", "", tt.body)
				if got := c.users(""); !equal(got, tt.want) {
					t.Errorf("after %d: %v, want %v", i+1, got, tt.want)
				}
			}
		})
	}
}

func equal(a, b []user) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// The second DELETE says 404, and an id is never given to another user, whom
// a late third one would hit.
func TestDeletedIDIsNotGivenAgain(t *testing.T) {
	c := service(t, "", 0)
	c.want(http.StatusCreated, http.MethodPost, "/users", "", ada)
	c.want(http.StatusNoContent, http.MethodDelete, "/users/1", "", "")
	c.want(http.StatusNotFound, http.MethodDelete, "/users/1", "", "")
	r := c.want(http.StatusCreated, http.MethodPost, "/users", "", ada)
	if l := r.header.Get("Location"); l != "/users/2" {
		t.Errorf("location %q, want /users/2", l)
	}
}

func TestAnswers(t *testing.T) {
	c := service(t, "", 0)
	r := c.want(http.StatusCreated, http.MethodPost, "/users", "", ada)
	if want := `{"id":1,"name":"Ada","email":"ada@example.com","age":36}` + "\n"; r.body != want {
		t.Errorf("POST: %s, want %s", r.body, want)
	}
	if got := c.want(http.StatusOK, http.MethodGet, "/users/1", "", "").body; got != r.body {
		t.Errorf("GET: %s, want %s", got, r.body)
	}
	if got := c.users("?email=nobody@example.com"); len(got) != 0 {
		t.Errorf("users of another email: %v", got)
	}
	tests := []struct {
		name, method, path, body string
		want                     int
	}{
		{"no name", http.MethodPost, "/users", `{"email": "a@b", "age": 1}`, http.StatusBadRequest},
		{"negative age", http.MethodPost, "/users", `{"name": "a", "email": "a@b", "age": -1}`, http.StatusBadRequest},
		{"unknown member", http.MethodPost, "/users", `{"name": "a", "email": "a@b", "id": 7}`, http.StatusBadRequest},
		{"no JSON", http.MethodPost, "/users", `name=a`, http.StatusBadRequest},
		{"two values", http.MethodPost, "/users", ada + ada, http.StatusBadRequest},
		{"too large", http.MethodPost, "/users", `{"name": "` + strings.Repeat("a", maxBody) + `"}`, http.StatusRequestEntityTooLarge},
		{"nothing to change", http.MethodPatch, "/users/1", `{}`, http.StatusBadRequest},
		{"both changes", http.MethodPatch, "/users/1", `{"age": 1, "age_add": 1}`, http.StatusBadRequest},
		{"negative age set", http.MethodPatch, "/users/1", `{"age": -1}`, http.StatusBadRequest},
		{"PATCH of nobody", http.MethodPatch, "/users/9", `{"age": 1}`, http.StatusNotFound},
		{"PUT of nobody", http.MethodPut, "/users/9", ada, http.StatusNotFound},
		{"GET of nobody", http.MethodGet, "/users/9", "", http.StatusNotFound},
		{"no id", http.MethodGet, "/users/ada", "", http.StatusNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := c.want(tt.want, tt.method, tt.path, "", tt.body)
			var e struct {
				Error string `json:"error"`
			}
			if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.Error == "" {
				t.Errorf("no error in %q: %v", r.body, err)
			}
		})
	}
	if got := c.only(); got != (user{1, "Ada", "ada@example.com", 36}) {
		t.Errorf("a refused request changed the user: %v", got)
	}
}
