package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// demo is the stage: a service, the proxy in front of it, and what was seen.
type demo struct {
	ctx    context.Context
	out    io.Writer
	bypass bool

	mu     sync.Mutex // of out and broken
	broken []string

	dir     string
	bin     string
	slow    time.Duration
	service service
	proxy   proxy
}

type service struct {
	url string
	*process
}

type proxy struct {
	url, admin string
	*process
}

// front is where a request with a key goes.
func (d *demo) front() string {
	if d.bypass {
		return d.service.url
	}
	return d.proxy.url
}

func (d *demo) say(format string, args ...any) { d.tell(format+"\n", args...) }

func (d *demo) tell(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, format, args...)
}

func (d *demo) chapter(title string) { d.say("\n== %s", title) }

// check notes a promise that was not kept.
func (d *demo) check(held bool, format string, args ...any) {
	if held {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = append(d.broken, fmt.Sprintf(format, args...))
}

func (d *demo) table(what string, without, with int) {
	d.say("\n  %-24s %-14s %s", "users made by", "without idem", "with idem")
	d.say("  %-24s %-14d %d", what, without, with)
}

func (d *demo) newKey() string { return "demo-" + strings.ToLower(rand.Text()) }

// answer is what a client got.
type answer struct {
	status   int
	body     string
	problem  string
	replayed bool
}

// String is the answer in one line.
func (a answer) String() string {
	switch {
	case a.problem != "":
		return fmt.Sprintf("%d %s", a.status, a.problem[strings.LastIndexByte(a.problem, '#')+1:])
	case a.replayed:
		return fmt.Sprintf("%d %s  (Idempotent-Replayed: true)", a.status, a.body)
	}
	return fmt.Sprintf("%d %s", a.status, a.body)
}

// post makes a user, as a client would.
func (d *demo) post(base, key, email string) (answer, error) {
	return d.postFor(30*time.Second, base, key, email)
}

func (d *demo) postFor(limit time.Duration, base, key, email string) (answer, error) {
	ctx, cancel := context.WithTimeout(d.ctx, limit)
	defer cancel()
	name, _, _ := strings.Cut(email, "@")
	body, err := json.Marshal(map[string]any{"name": name, "email": email, "age": 30})
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/users", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	// This client sends nothing twice by itself, so that what arrives is what
	// was sent: no body that can be rewound, and no connection used again.
	req.GetBody, req.Close = nil, true
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, body: strings.TrimSpace(string(b)), replayed: res.Header.Get("Idempotent-Replayed") == "true"}
	if res.Header.Get("Content-Type") == "application/problem+json" {
		var p struct{ Type string }
		if err := json.Unmarshal(b, &p); err != nil {
			return answer{}, err
		}
		a.problem = p.Type
	}
	return a, nil
}

func (d *demo) getJSON(url string, v any) error {
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return d.exchange(req, v)
}

func (d *demo) postJSON(url string, body []byte) error {
	req, err := http.NewRequestWithContext(d.ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return d.exchange(req, nil)
}

func (d *demo) exchange(req *http.Request, v any) error {
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", req.Method, req.URL.Path, res.Status, b)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(b, v)
}

// await asks again until done says so, at most half a minute.
func (d *demo) await(what string, done func() bool) error {
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-limit.C:
			return errors.New("waited in vain for " + what)
		case <-d.ctx.Done():
			return d.ctx.Err()
		}
	}
	return nil
}

// end stops what was started, and removes what it left.
func (d *demo) end() {
	d.proxy.stop()
	d.service.stop()
	if d.dir != "" {
		_ = os.RemoveAll(d.dir)
	}
}
