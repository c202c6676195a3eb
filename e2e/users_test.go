package e2e

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/idem-go/idem/e2e/internal/rig"
)

const usersPackage = "github.com/idem-go/idem/examples/users"

// usersFront is a way to the users service: where to send requests, and whether
// idem stands in between.
type usersFront struct {
	t      *testing.T
	addr   string
	behind bool
}

// The cases of examples/users' README, as a reader plays them: the service alone,
// behind the proxy, with the middleware in it, and with its records in its own
// database, each as processes.
func TestUsersReadme(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "users")
	run(t, exec.Command("go", "build", "-o", binary, usersPackage))
	start := func(t *testing.T, args ...string) string {
		args = append(args, "--db", filepath.Join(t.TempDir(), "users.db"))
		url := startService(t, "/users", func(addr string) *exec.Cmd {
			return exec.Command(binary, append(args, "--addr", addr)...)
		})
		return strings.TrimPrefix(url, "http://")
	}
	for _, front := range []struct {
		name  string
		start func(t *testing.T, args ...string) usersFront
	}{
		{"alone", func(t *testing.T, args ...string) usersFront {
			return usersFront{t, start(t, args...), false}
		}},
		{"behind the proxy", func(t *testing.T, args ...string) usersFront {
			return usersFront{t, rig.Start(t, "http://"+start(t, args...)).Listen, true}
		}},
		{"with the middleware", func(t *testing.T, args ...string) usersFront {
			store := "file:" + filepath.Join(t.TempDir(), "idem")
			return usersFront{t, start(t, append(args, "--idem", store)...), true}
		}},
		{"in one transaction", func(t *testing.T, args ...string) usersFront {
			return usersFront{t, start(t, append(args, "--idem", "tx")...), true}
		}},
	} {
		t.Run(front.name, func(t *testing.T) {
			for _, c := range []struct {
				name string
				args []string
				play func(f usersFront)
			}{
				{"a user made twice", nil, usersFront.userMadeTwice},
				{"a year added twice", nil, usersFront.yearAddedTwice},
				{"harmless either way", nil, usersFront.harmless},
				{"another body", nil, usersFront.anotherBody},
				{"an answer that is late", []string{"--delay", "1s"}, usersFront.lateAnswer},
			} {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.play(front.start(t, c.args...))
				})
			}
		})
	}
}

const (
	ada  = `{"name": "Ada", "email": "ada@example.com", "age": 36}`
	alan = `{"name": "Alan", "email": "alan@example.com", "age": 41}`
)

func (f usersFront) userMadeTwice() {
	first := f.send(http.StatusCreated, "POST", "/users", "ada-1", ada)
	second := f.send(http.StatusCreated, "POST", "/users", "ada-1", ada)
	if !f.behind {
		f.count("?email=ada@example.com", 2)
		return
	}
	wantFirst(f.t, "the first", first, http.StatusCreated)
	wantReplay(f.t, "the second", first, second)
	if a, b := first.Header.Get("Location"), second.Header.Get("Location"); a != "/users/1" || b != a {
		f.t.Errorf("Location is %q and then %q", a, b)
	}
	f.count("?email=ada@example.com", 1)
}

func (f usersFront) yearAddedTwice() {
	f.send(http.StatusCreated, "POST", "/users", "", ada)
	twice := 38
	if f.behind {
		twice = 37
	}
	for i, key := range []string{"birthday-1", "birthday-2"} {
		for range 2 {
			f.send(http.StatusOK, "PATCH", "/users/1", key, `{"age_add": 1}`)
		}
		if age, want := f.count("", 1)[0].Age, 36+(i+1)*(twice-36); age != want {
			f.t.Errorf("after %s she is %d, want %d", key, age, want)
		}
	}
}

func (f usersFront) harmless() {
	f.send(http.StatusCreated, "POST", "/users", "", ada)
	for range 2 {
		f.send(http.StatusOK, "PATCH", "/users/1", "", `{"age": 30}`)
		f.send(http.StatusOK, "PUT", "/users/1", "", `{"name": "Ada L.", "email": "ada@example.com", "age": 30}`)
	}
	if u := f.count("", 1)[0]; u.Age != 30 || u.Name != "Ada L." {
		f.t.Errorf("the user is %+v", u)
	}
	f.send(http.StatusNoContent, "DELETE", "/users/1", "", "")
	f.send(http.StatusNotFound, "DELETE", "/users/1", "", "")
	f.count("", 0)
}

func (f usersFront) anotherBody() {
	f.send(http.StatusCreated, "POST", "/users", "ada-1", ada)
	if !f.behind {
		f.send(http.StatusCreated, "POST", "/users", "ada-1", alan)
		f.count("", 2)
		return
	}
	r := f.send(http.StatusUnprocessableEntity, "POST", "/users", "ada-1", alan)
	wantProblem(f.t, "another body", r, http.StatusUnprocessableEntity, "key-reused")
	f.count("", 1)
}

// The client hangs up once its user is there and before it has the answer.
func (f usersFront) lateAnswer() {
	c := rig.Dial(f.t, f.addr)
	c.Write(f.request("POST", "/users", "ada-1", ada).Text())
	rig.Eventually(f.t, "the user is there", func() bool { return len(f.users("")) == 1 })
	c.Close()
	r := f.send(http.StatusCreated, "POST", "/users", "ada-1", ada)
	if !f.behind {
		f.count("", 2)
		return
	}
	if !r.Replayed() {
		f.t.Errorf("the retry is no replay: %v", r)
	}
	f.count("", 1)
}

func (f usersFront) request(method, path, key, body string) rig.Request {
	return rig.Request{
		Method: method, Path: path, Host: f.addr, Key: key, Body: body,
		Header: []string{"Content-Type: application/json", "Connection: close"},
	}
}

// send sends a request and checks the status of its answer.
func (f usersFront) send(status int, method, path, key, body string) rig.Reply {
	f.t.Helper()
	r := rig.Send(f.t, f.addr, f.request(method, path, key, body))
	if r.Err != nil || r.Status != status {
		f.t.Fatalf("%s %s: want %d, got %v", method, path, status, r)
	}
	return r
}

type usersRow struct {
	Name string
	Age  int
}

func (f usersFront) users(query string) []usersRow {
	f.t.Helper()
	var all []usersRow
	r := f.send(http.StatusOK, "GET", "/users"+query, "", "")
	if err := json.Unmarshal(r.Body, &all); err != nil {
		f.t.Fatal(err)
	}
	return all
}

// count returns the users, and ends the test unless they are n.
func (f usersFront) count(query string, n int) []usersRow {
	f.t.Helper()
	all := f.users(query)
	if len(all) != n {
		f.t.Fatalf("%d users, want %d: %+v", len(all), n, all)
	}
	return all
}
