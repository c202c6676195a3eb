package main

import (
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/testserver"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := testserver.StopAll(); err != nil {
		code = 1
	}
	os.Exit(code)
}

// databases runs f on SQLite, and on PostgreSQL where there is one, each with a
// service whose records are in the users' own database.
func databases(t *testing.T, delay time.Duration, f func(c *client)) {
	t.Run("sqlite", func(t *testing.T) {
		f(serviceOn(t, filepath.Join(t.TempDir(), "users.db"), "tx", delay))
	})
	t.Run("postgres", func(t *testing.T) {
		pg, err := testserver.Postgres(nil)
		if !testserver.Need(t, "postgres", err) {
			return
		}
		t.Cleanup(func() {
			if err := pg.Stop(); err != nil {
				t.Error(err)
			}
		})
		f(serviceOn(t, pg.DSN(), "tx", delay))
	})
}

func TestUserAndRecordCommitTogether(t *testing.T) {
	databases(t, 0, func(c *client) {
		first := c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
		second := c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
		if second.body != first.body || first.header.Get(replayed) != "" || second.header.Get(replayed) != "true" {
			c.t.Errorf("%v, then %v", first, second)
		}
		for range 2 {
			c.want(http.StatusOK, http.MethodPatch, "/users/1", `"birthday-1"`, `{"age_add": 1}`)
			c.want(http.StatusOK, http.MethodPatch, "/users/1", "", `{"age": 37}`)
		}
		if got := c.only(); got.Age != 37 {
			c.t.Errorf("age %d, want 37", got.Age)
		}
		c.want(http.StatusUnprocessableEntity, http.MethodPost, "/users", `"ada-1"`, `{"name": "Alan", "email": "a@example.com", "age": 41}`)
		// What was refused is recorded like any other answer.
		for range 2 {
			c.want(http.StatusNotFound, http.MethodPatch, "/users/99", `"nobody"`, `{"age_add": 1}`)
		}
		c.want(http.StatusNoContent, http.MethodDelete, "/users/1", "", "")
		c.want(http.StatusNotFound, http.MethodDelete, "/users/1", "", "")
	})
}

func TestTenAtOnceInOneTransaction(t *testing.T) {
	databases(t, 100*time.Millisecond, func(c *client) {
		replies := make(chan reply, 10)
		var wg sync.WaitGroup
		for range cap(replies) {
			wg.Go(func() { replies <- c.send(http.MethodPost, "/users", `"ada-1"`, ada) })
		}
		wg.Wait()
		close(replies)
		bodies := map[string]int{}
		for r := range replies {
			bodies[r.body]++
			if r.status != http.StatusCreated {
				c.t.Errorf("%d %s", r.status, r.body)
			}
		}
		c.only()
		if len(bodies) != 1 {
			c.t.Errorf("the answers differ: %v", bodies)
		}
	})
}
