package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// tenTimes sends one request ten times, and kills the proxy in the middle.
func (d *demo) tenTimes() error {
	d.chapter("Scene 1: one request, sent ten times")
	d.say("Without idem, ten POSTs of one new user straight to the service:")
	for range 10 {
		if _, err := d.post(d.service.url, "", "eve@example.com"); err != nil {
			return err
		}
	}
	without, err := d.count("eve@example.com")
	if err != nil {
		return err
	}
	d.say("  the service now has %d users named eve@example.com.", without)

	d.say("With idem, the same through the proxy, with one Idempotency-Key. Five at once:")
	key := d.newKey()
	answers, err := d.race(5, key, "ada@example.com")
	if err != nil {
		return err
	}
	d.say("Now the proxy is killed (SIGKILL) and started again on the same store.")
	if err := d.restartProxy(); err != nil {
		return err
	}
	d.say("Five more, one after the other:")
	for range 5 {
		a, err := d.post(d.front(), key, "ada@example.com")
		if err != nil {
			return err
		}
		d.say("  %v", a)
		answers = append(answers, a)
	}
	replays := 0
	for _, a := range answers {
		if a.replayed {
			replays++
		}
		d.check(a.status == 201 && a.body == answers[0].body, "an answer differs from the first: %v", a)
	}
	with, err := d.count("ada@example.com")
	if err != nil {
		return err
	}
	d.say("  the service has %d user named ada@example.com; %d of the 10 answers are replays.", with, replays)
	d.check(with == 1, "ten requests with one key made %d users", with)
	d.check(replays == 9, "%d answers are marked as replays, not 9", replays)
	d.table("ten POSTs", without, with)
	return nil
}

// killed kills the proxy while the service works.
func (d *demo) killed() error {
	d.chapter("Scene 2: the proxy is killed while the service works")
	d.say("The service is started again; it now takes a while between writing a user and answering.")
	if err := d.startService(2 * time.Second); err != nil {
		return err
	}
	d.say("Without idem: a client loses its connection after the user was written, and tries again.")
	if err := d.postAndLeave(d.service.url, "", "mallory@example.com", func() error { return nil }); err != nil {
		return err
	}
	if _, err := d.post(d.service.url, "", "mallory@example.com"); err != nil {
		return err
	}
	without, err := d.count("mallory@example.com")
	if err != nil {
		return err
	}
	d.say("  the service now has %d users named mallory@example.com.", without)

	const email = "grace@example.com"
	key := d.newKey()
	d.say("With idem: the same request through the proxy, which is killed once the user is written.")
	if err := d.postAndLeave(d.front(), key, email, d.killProxy); err != nil {
		return err
	}
	d.say("  the client's connection broke. The proxy is started again, and the client tries again:")
	if err := d.startProxy(); err != nil {
		return err
	}
	a, err := d.post(d.front(), key, email)
	if err != nil {
		return err
	}
	d.say("  %v", a)
	d.check(a.status == 409 && strings.HasSuffix(a.problem, "outcome-unknown"), "the outcome is unknown, and that was not said: %v", a)
	d.say("Nobody can know from here whether the user was made, so idem says so and does not guess.")

	d.say("Somebody looks the user up in the service, and tells idem what became of the request:")
	user, err := d.lookUp(email)
	if err != nil {
		return err
	}
	d.say("  GET /users?email=%s finds %s", email, user)
	if err := d.complete(key, user); err != nil {
		return err
	}
	d.say("The client tries again:")
	a, err = d.post(d.front(), key, email)
	if err != nil {
		return err
	}
	d.say("  %v", a)
	d.check(a.status == 201 && a.replayed && a.body == user, "the retry did not get the answer that was put on record: %v", a)
	with, err := d.count(email)
	if err != nil {
		return err
	}
	d.say("  the service has %d user named %s.", with, email)
	d.check(with == 1, "a proxy that was killed left %d users", with)
	d.table("killed in the middle", without, with)
	return nil
}

// race sends one request n times at once.
func (d *demo) race(n int, key, email string) ([]answer, error) {
	answers, errs := make([]answer, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i], errs[i] = d.post(d.front(), key, email) })
	}
	wg.Wait()
	for i := range n {
		if errs[i] != nil {
			return nil, errs[i]
		}
		d.say("  %v", answers[i])
	}
	return answers, nil
}

// postAndLeave sends a request, does what is given once the user is in the
// service, and leaves without the answer.
func (d *demo) postAndLeave(base, key, email string, meanwhile func() error) error {
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = d.postFor(500*time.Millisecond+d.slow/2, base, key, email) // its failure is the point
	}()
	err := d.await("the user to be written", func() bool {
		n, err := d.count(email)
		return err == nil && n > 0
	})
	if err == nil {
		err = meanwhile()
	}
	<-left
	return err
}

// lookUp returns the service's user with that address, as the service shows it.
func (d *demo) lookUp(email string) (string, error) {
	users, err := d.users(email)
	if err != nil {
		return "", err
	}
	if len(users) == 0 {
		return "", fmt.Errorf("the service has no user named %s", email)
	}
	return string(users[0]), nil
}

// complete puts the answer of an operation on record, as an operator does.
func (d *demo) complete(key, user string) error {
	var records struct {
		Records []struct{ Key, Path string }
	}
	if err := d.getJSON(d.proxy.admin+"/v1/records?state=unknown", &records); err != nil {
		return err
	}
	for _, r := range records.Records {
		if r.Key != key {
			continue
		}
		var u struct{ ID int64 }
		if err := json.Unmarshal([]byte(user), &u); err != nil {
			return err
		}
		body, err := json.Marshal(map[string]any{
			"status":  http.StatusCreated,
			"headers": map[string][]string{"Content-Type": {"application/json"}, "Location": {fmt.Sprint("/users/", u.ID)}},
			"body":    base64.StdEncoding.EncodeToString([]byte(user + "\n")),
		})
		if err != nil {
			return err
		}
		d.say("  POST %s%s/complete with its answer: 201 and the user.", strings.TrimPrefix(d.proxy.admin, "http://"), r.Path)
		return d.postJSON(d.proxy.admin+r.Path+"/complete", body)
	}
	d.check(false, "the admin interface does not list the unknown outcome")
	return nil
}

// count counts users from outside: it asks the service, past the proxy.
func (d *demo) count(email string) (int, error) {
	users, err := d.users(email)
	return len(users), err
}

func (d *demo) users(email string) ([]json.RawMessage, error) {
	var users []json.RawMessage
	err := d.getJSON(d.service.url+"/users?email="+url.QueryEscape(email), &users)
	return users, err
}
