package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// start runs the program on a free port until stop is called, and says what
// it ended with.
func start(t *testing.T, args ...string) (c *client, stop func(), ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, w := io.Pipe()
	end := make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), w)
		_ = w.CloseWithError(err)
		end <- err
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("nothing was said: %v", err)
	}
	base, ok := strings.CutPrefix(strings.TrimSpace(line), "users: listening on ")
	if !ok {
		t.Fatalf("the first line is %q", line)
	}
	return &client{t: t, base: base, http: &http.Client{Transport: &http.Transport{}}}, cancel, end
}

// A request in flight when the service is told to stop still gets its answer,
// and its user is there when the service is started again.
func TestStopsWhenRequestsHaveTheirAnswers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.db")
	c, stop, ended := start(t, "-db", file, "-delay", "500ms")
	answered := make(chan reply, 1)
	go func() {
		defer close(answered) // no answer at all ends the test, too
		answered <- c.send(http.MethodPost, "/users", "", ada)
	}()
	for deadline := time.Now().Add(10 * time.Second); len(c.users("")) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the user was never written")
		}
	}
	stop()
	if r := <-answered; r.status != http.StatusCreated {
		t.Errorf("the request in flight: %d %s", r.status, r.body)
	}
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	c, _, _ = start(t, "-db", file)
	if got := c.only(); got.Name != "Ada" {
		t.Errorf("after the restart: %v", got)
	}
}

// What was answered before the service stopped is answered again after it.
func TestAnswersOutliveTheService(t *testing.T) {
	dir := t.TempDir()
	args := []string{"-db", filepath.Join(dir, "users.db"), "-idem", "file:" + filepath.Join(dir, "idem")}
	c, stop, ended := start(t, args...)
	first := c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
	stop()
	if err := <-ended; err != nil {
		t.Fatalf("run: %v", err)
	}
	c, stop, ended = start(t, args...)
	second := c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
	c.only()
	if second.body != first.body || second.header.Get(replayed) != "true" {
		t.Errorf("after the restart: %v, before it: %v", second, first)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestRefusesToStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.db")
	c, _, _ := start(t, "-db", file)
	taken := strings.TrimPrefix(c.base, "http://")
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"a port in use", []string{"-addr", taken, "-db", file}, "users: listen"},
		{"no such folder", []string{"-db", filepath.Join(t.TempDir(), "none", "users.db")}, "users: opening"},
		{"no such store", []string{"-db", file, "-idem", "floppy:a"}, "users: -idem floppy:a"},
		{"an argument", []string{"-db", file, "now"}, `users: unexpected argument "now"`},
		{"no such flag", []string{"-colour"}, "-colour"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := run(t.Context(), tt.args, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("run: %v, want %q", err, tt.want)
			}
		})
	}
}
