package main

import (
	"net/http"
	"sync"
	"testing"
	"time"
)

const replayed = "Idempotent-Replayed"

func TestPostTwiceBehindIdemMakesOneUser(t *testing.T) {
	c := service(t, "memory:", 0)
	first := c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
	second := c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
	c.only()
	if second.body != first.body || second.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("the retry got %v, the first %v", second, first)
	}
	if a, b := first.header.Get(replayed), second.header.Get(replayed); a != "" || b != "true" {
		t.Errorf("%s: %q and then %q", replayed, a, b)
	}
}

func TestAgeAddTwiceBehindIdemAddsOne(t *testing.T) {
	c := service(t, "memory:", 0)
	c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
	for range 2 {
		c.want(http.StatusOK, http.MethodPatch, "/users/1", `"birthday-1"`, `{"age_add": 1}`)
	}
	if age := c.only().Age; age != 37 {
		t.Errorf("age %d, want 37", age)
	}
	c.want(http.StatusOK, http.MethodPatch, "/users/1", `"birthday-2"`, `{"age_add": 1}`)
	if age := c.only().Age; age != 38 {
		t.Errorf("age %d after the next birthday, want 38", age)
	}
}

// Ten at once, while the service takes its time: one runs, nine wait.
func TestPostTenTimesAtOnceBehindIdemMakesOneUser(t *testing.T) {
	c := service(t, "memory:", 100*time.Millisecond)
	replies := make(chan reply, 10)
	var wg sync.WaitGroup
	for range cap(replies) {
		wg.Go(func() { replies <- c.send(http.MethodPost, "/users", `"ada-1"`, ada) })
	}
	wg.Wait()
	close(replies)
	bodies, replays, n := map[string]int{}, 0, 0
	for r := range replies {
		n++
		bodies[r.body]++
		if r.header.Get(replayed) == "true" {
			replays++
		}
		if r.status != http.StatusCreated {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	c.only()
	if n != 10 || len(bodies) != 1 || replays != 9 {
		t.Errorf("%d answers, %d of them replays, with the bodies %v", n, replays, bodies)
	}
}

// What needs no key behaves behind idem as it does without.
func TestByNatureBehindIdem(t *testing.T) {
	c := service(t, "memory:", 0)
	c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
	for range 2 {
		c.want(http.StatusOK, http.MethodPatch, "/users/1", "", `{"age": 30}`)
		c.want(http.StatusOK, http.MethodPut, "/users/1", "", `{"name": "Ada L.", "email": "ada@example.com", "age": 30}`)
	}
	if got := c.only(); got != (user{1, "Ada L.", "ada@example.com", 30}) {
		t.Errorf("%v", got)
	}
	c.want(http.StatusNoContent, http.MethodDelete, "/users/1", "", "")
	c.want(http.StatusNotFound, http.MethodDelete, "/users/1", "", "")
}

func TestAnotherBodyUnderTheSameKeyIsRefused(t *testing.T) {
	c := service(t, "memory:", 0)
	c.want(http.StatusCreated, http.MethodPost, "/users", `"ada-1"`, ada)
	c.want(http.StatusUnprocessableEntity, http.MethodPost, "/users", `"ada-1"`,
		`{"name": "Alan", "email": "alan@example.com", "age": 41}`)
	c.only()
}
