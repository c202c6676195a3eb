package drivertest

import (
	"time"

	"github.com/idem-go/idem/driver"
)

// Model is the contract of package driver as a pure function: what one key is
// and what each call makes of it. Its methods return the model as it is after
// the call and the answer that the call must get; they change nothing. The zero
// Model is a key that nothing is known of. Models can be compared with ==.
//
// Times are durations since whatever beginning the caller chose. They must not
// go backwards from one call to the next.
type Model struct {
	kind    kind
	token   uint64
	highest uint64
	nonce   driver.Nonce
	attempt int

	scope, id   string
	fingerprint driver.Fingerprint
	meta, body  string
	dropped     bool
	answered    bool
	late        bool
	resolved    bool

	since, due, tombstone time.Duration
}

// kind is a state of the model.
type kind uint8

const (
	nothing kind = iota
	inFlight
	lapsed
	abandoned
	completed
	forgotten
	releasedByOwner
	releasedByResolve
)

// State is the state of the key at a time.
func (m Model) State(now time.Duration) driver.State {
	switch m.at(now).kind {
	case inFlight:
		return driver.StateInFlight
	case lapsed, abandoned:
		return driver.StateUnknown
	case completed:
		return driver.StateCompleted
	case forgotten:
		return driver.StateForgotten
	}
	return driver.StateAbsent
}

// at is the model when nothing happens until now.
func (m Model) at(now time.Duration) Model {
	for m.kind != nothing && m.due <= now {
		switch m.kind {
		case inFlight:
			m.kind, m.due = lapsed, m.due+m.tombstone
		case completed:
			m.kind, m.since, m.due = forgotten, m.due, m.due+m.tombstone
			m.fingerprint, m.meta, m.body, m.dropped = driver.Fingerprint{}, "", "", false
		default:
			m = Model{highest: m.highest}
		}
	}
	return m
}

func (m Model) record(now time.Duration) driver.Record {
	r := driver.Record{
		State: m.State(now), Token: m.token, Attempt: m.attempt,
		Scope: m.scope, ID: m.id, Fingerprint: m.fingerprint,
		Answered: m.answered, Dropped: m.dropped,
	}
	if r.State != driver.StateAbsent {
		r.Age, r.Left = now-m.since, m.due-now
	}
	if m.meta != "" {
		r.Result.Meta = []byte(m.meta)
	}
	if m.body != "" {
		r.Result.Body = []byte(m.body)
	}
	return r
}

// Claim is [driver.Store.Claim]. Token is the one that the store granted: it is
// taken for a claim that is granted anew, if it is larger than all before; the
// answer has another token if it is not.
func (m Model) Claim(now time.Duration, req driver.ClaimRequest, token uint64) (Model, driver.ClaimReply, error) {
	m = m.at(now)
	ours := req.Nonce == m.nonce
	refused := func() (Model, driver.ClaimReply, error) {
		return m, driver.ClaimReply{Record: m.record(now)}, nil
	}
	switch m.kind {
	case inFlight, lapsed:
		if ours {
			m.kind, m.due = inFlight, now+req.Lease
			return m, driver.ClaimReply{Granted: true, Record: m.record(now)}, nil
		}
		if m.kind == inFlight || !req.Retry || req.Fingerprint != m.fingerprint {
			return refused()
		}
	case abandoned:
		if !req.Retry || req.Fingerprint != m.fingerprint {
			return refused()
		}
	case completed, forgotten:
		return refused()
	case releasedByOwner:
		if ours {
			return m, driver.ClaimReply{}, driver.ErrLost
		}
		if m.answered && req.Waited != 0 && req.Waited <= m.token {
			return refused()
		}
	}
	if token <= m.highest {
		token = m.highest + 1
	}
	m = Model{
		kind: inFlight, token: token, highest: token, nonce: req.Nonce, attempt: m.attempt + 1,
		scope: req.Scope, id: req.ID, fingerprint: req.Fingerprint,
		since: now, due: now + req.Lease, tombstone: req.Tombstone,
	}
	return m, driver.ClaimReply{Granted: true, Record: m.record(now)}, nil
}

// owned is the state of the claim that a token names; nothing when that is not
// the newest.
func (m Model) owned(token uint64) kind {
	if m.token != token {
		return nothing
	}
	return m.kind
}

// Renew is [driver.Store.Renew].
func (m Model) Renew(now time.Duration, token uint64, lease time.Duration) (Model, error) {
	m = m.at(now)
	switch m.owned(token) {
	case inFlight:
		m.due = now + lease
		return m, nil
	case lapsed, abandoned:
		return m, driver.ErrLapsed
	case completed, forgotten:
		return m, driver.ErrCompleted
	}
	return m, driver.ErrLost
}

// Complete is [driver.Store.Complete], with a result within the store's limit.
func (m Model) Complete(now time.Duration, token uint64, c driver.Completion) (Model, bool, error) {
	m = m.at(now)
	switch k := m.owned(token); k {
	case inFlight, lapsed, abandoned, releasedByResolve:
		if k == releasedByResolve {
			m.scope, m.id, m.fingerprint = c.Scope, c.ID, c.Fingerprint
		}
		late := k != inFlight
		m = m.complete(now, c.Result, c.Dropped, c.Retention, c.Tombstone)
		m.late = late
		return m, late, nil
	case completed:
		if !m.has(c.Result, c.Dropped) {
			return m, false, driver.ErrCompleted
		}
		return m, m.late, nil
	case forgotten:
		return m, m.late, nil
	}
	return m, false, driver.ErrLost
}

func (m Model) complete(now time.Duration, r driver.Result, dropped bool, retention, tombstone time.Duration) Model {
	m.kind, m.since, m.due, m.tombstone = completed, now, now+retention, tombstone
	m.meta, m.body, m.dropped = string(r.Meta), string(r.Body), dropped
	return m
}

func (m Model) has(r driver.Result, dropped bool) bool {
	return m.dropped == dropped && m.meta == string(r.Meta) && m.body == string(r.Body)
}

// Release is [driver.Store.Release].
func (m Model) Release(now time.Duration, token uint64, r driver.Release) (Model, error) {
	m = m.at(now)
	switch m.owned(token) {
	case inFlight:
		if r.Unused {
			m.attempt--
		}
		return m.release(releasedByOwner, now+r.Retention, r.Answered), nil
	case lapsed, abandoned:
		return m, driver.ErrLapsed
	case completed, forgotten:
		return m, driver.ErrCompleted
	case releasedByOwner, releasedByResolve:
		return m, nil
	}
	return m, driver.ErrLost
}

func (m Model) release(k kind, due time.Duration, answered bool) Model {
	return Model{
		kind: k, token: m.token, highest: m.highest, nonce: m.nonce, attempt: m.attempt,
		answered: answered, due: due,
	}
}

// Abandon is [driver.Store.Abandon].
func (m Model) Abandon(now time.Duration, token uint64) (Model, error) {
	m = m.at(now)
	switch m.owned(token) {
	case inFlight:
		m.kind, m.due = abandoned, now+m.tombstone
		return m, nil
	case lapsed, abandoned:
		m.kind = abandoned
		return m, nil
	case completed, forgotten:
		return m, driver.ErrCompleted
	}
	return m, driver.ErrLost
}

// Lookup is [driver.Store.Lookup]. The record's key is left for the caller.
func (m Model) Lookup(now time.Duration) (Model, driver.Record) {
	m = m.at(now)
	return m, m.record(now)
}

// Resolve is [driver.Resolver], with a result within the store's limit. A
// repeat, of which the contract says that it may give ErrState, does.
func (m Model) Resolve(now time.Duration, r driver.Resolution) (Model, driver.Record, error) {
	m = m.at(now)
	unknown := m.kind == lapsed || m.kind == abandoned
	switch {
	case r.Token != 0 && r.Token != m.token:
		return m, driver.Record{}, driver.ErrLost
	case r.Action == driver.ResolveComplete && unknown:
		m = m.complete(now, r.Result, r.Dropped, r.Retention, r.Tombstone)
		m.resolved, m.late = true, true
	case r.Action == driver.ResolveRelease && (unknown || m.kind == inFlight && r.Force):
		m = m.release(releasedByResolve, now+r.Retention, false)
	case r.Action == driver.ResolveErase && m.kind == completed:
		m.due, m.tombstone = now, r.Tombstone
		m = m.at(now)
	default:
		return m, driver.Record{}, driver.ErrState
	}
	return m, m.record(now), nil
}
