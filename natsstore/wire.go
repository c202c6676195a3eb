package natsstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
)

// attempt is how long one message to the server waits for its answer. A server
// that was the leader a moment ago says nothing at all, so what was asked is
// asked again.
const attempt = 2 * time.Second

const expectHeader = "Nats-Expected-Last-Subject-Sequence"

var (
	// errConflict: the revision that a write expected is no longer the last one.
	errConflict = errors.New("natsstore: another write came first")
	// errSilent: no answer came, so nobody knows what became of the request.
	errSilent = errors.New("natsstore: the server did not answer: is it reachable, and has the bucket a leader? (nats stream info)")
	// errNoRoom: the server refuses to store more.
	errNoRoom = errors.New("natsstore: no room")
	// errNothing: nothing is stored under a subject.
	errNothing = errors.New("natsstore: nothing there")
)

// apiError is how JetStream says no.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// The numbers of JetStream's errors.
const (
	codeNoMessage            = 10037
	codeNotEnabledForAccount = 10039
	codeNoStream             = 10059
	codeMessageTooLarge      = 10054
	codeWrongLast            = 10071
	codeStoreFailed          = 10077
	codeWrongLastUnsaid      = 10164
)

// Error implements error.
func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// transient reports that the same request may succeed in a moment: the cluster
// has no leader just now, or is busy.
func (e *apiError) transient() bool {
	switch e.ErrCode {
	case codeStoreFailed, codeNotEnabledForAccount:
		return false
	}
	return e.Code == 503 && !e.full()
}

// full reports that the bucket's bounds, the account's or the disk's leave no
// room.
func (e *apiError) full() bool {
	switch e.ErrCode {
	case 10002, // resource limits exceeded for account
		10023, // insufficient resources
		10028, // memory resources exceeded
		10047: // insufficient storage resources
		return true
	case codeStoreFailed:
		return e.Description == "maximum bytes exceeded" || e.Description == "maximum messages exceeded"
	}
	return false
}

// ask sends one message and waits for its answer, for a bounded while. When
// none comes the error is errSilent, unless the context of the caller ended.
func (s *Store) ask(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	down, err := s.link.up(ctx, s.opts.Timeout, s.closing)
	if err != nil {
		return nil, err
	}
	actx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	stop := context.AfterFunc(down, cancel)
	defer stop()
	answer, err := s.nc.RequestMsgWithContext(actx, m)
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errNobody
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, fmt.Errorf("%w: the server's max_payload is smaller than it was at the start", driver.ErrTooLarge)
	}
	return nil, errSilent
}

// errNobody: nobody listens to the request, so it did nothing.
var errNobody = errors.New("natsstore: nobody answers for the bucket: is JetStream enabled, and has the stream a leader? (nats stream info)")

// api sends a request to JetStream, again and again while the cluster has no
// leader; only requests that change nothing, or that may be repeated.
func (s *Store) api(ctx context.Context, name string, request any, into interface{ refusal() *apiError }) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		answer, err := s.ask(ctx, &nats.Msg{Subject: s.apiPrefix + name + "." + s.stream, Data: data})
		if err == nil {
			if err := json.Unmarshal(answer.Data, into); err != nil {
				return fmt.Errorf("natsstore: the answer to %s makes no sense: %w", name, err)
			}
			switch refusal := into.refusal(); {
			case refusal == nil:
				return nil
			case refusal.ErrCode == codeNoMessage:
				return errNothing
			case !refusal.transient():
				return fmt.Errorf("natsstore: %s: %w%s", name, refusal, refusal.hint())
			default:
				err = fmt.Errorf("natsstore: %s: %w", name, refusal)
			}
		}
		if ctx.Err() != nil || !errors.Is(err, errNobody) && !errors.Is(err, errSilent) && !isTransient(err) {
			return err
		}
		if s.pause(ctx, try) != nil {
			return err
		}
	}
}

func isTransient(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.transient()
}

// reply is the part of an answer that says no. Answers embed it.
type reply struct {
	Error *apiError `json:"error"`
}

// refusal returns what the answer refuses, and forgets it, so that the next
// answer can be read into the same place.
func (r *reply) refusal() *apiError {
	e := r.Error
	r.Error = nil
	return e
}

// hint tells the operator what to do about an error.
func (e *apiError) hint() string {
	switch e.ErrCode {
	case codeNoStream:
		return ": make the bucket with `idem store migrate`"
	case codeNotEnabledForAccount:
		return ": enable JetStream for the account"
	}
	return ""
}

// stored is a message as it lies in the bucket.
type stored struct {
	rev    uint64
	header []byte
	data   []byte
}

// load reads the last message of a subject from the leader of the stream. A
// direct get would be faster, and may be answered by a replica that is behind.
func (s *Store) load(ctx context.Context, subject string) (stored, error) {
	var answer struct {
		reply
		Message *struct {
			Seq  uint64 `json:"seq"`
			Hdrs []byte `json:"hdrs"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	request := struct {
		Last string `json:"last_by_subj"`
	}{subject}
	if err := s.api(ctx, "STREAM.MSG.GET", request, &answer); err != nil {
		return stored{}, err
	}
	if answer.Message == nil || answer.Message.Seq == 0 {
		return stored{}, errors.New("natsstore: the answer to STREAM.MSG.GET holds no message")
	}
	return stored{answer.Message.Seq, answer.Message.Hdrs, answer.Message.Data}, nil
}

// headerValue finds a header in the bytes of a message's headers.
func headerValue(header []byte, name string) (string, bool) {
	for line := range bytes.SplitSeq(header, []byte("\r\n")) {
		if k, v, ok := bytes.Cut(line, []byte(":")); ok && string(k) == name {
			return string(bytes.TrimSpace(v)), true
		}
	}
	return "", false
}

// store writes a message if rev is still the last revision of its subject, 0
// for none, and returns the new revision. It is sent once: after errSilent it
// may have been written, now or later.
func (s *Store) store(ctx context.Context, subject, meta string, data []byte, rev uint64) (uint64, error) {
	m := &nats.Msg{Subject: s.putPrefix + subject, Data: data, Header: nats.Header{
		expectHeader: {strconv.FormatUint(rev, 10)},
	}}
	if meta != "" {
		m.Header[recordHeader] = []string{meta}
	}
	return s.publish(ctx, m)
}

func (s *Store) publish(ctx context.Context, m *nats.Msg) (uint64, error) {
	answer, err := s.ask(ctx, m)
	if err != nil {
		return 0, err
	}
	var ack struct {
		reply
		Stream string `json:"stream"`
		Seq    uint64 `json:"seq"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, fmt.Errorf("natsstore: the answer to a write makes no sense: %w", err)
	}
	switch {
	case ack.Error == nil && (ack.Seq == 0 || ack.Stream != s.stream):
		return 0, fmt.Errorf("natsstore: the stream %q answered a write to %q: does its subject overlap?", ack.Stream, s.stream)
	case ack.Error == nil:
		return ack.Seq, nil
	case ack.Error.ErrCode == codeWrongLast || ack.Error.ErrCode == codeWrongLastUnsaid:
		return 0, errConflict
	case ack.Error.ErrCode == codeMessageTooLarge:
		return 0, fmt.Errorf("%w: the bucket's max_msg_size is smaller than it was at the start", driver.ErrTooLarge)
	case ack.Error.full():
		return 0, fmt.Errorf("%w: %w: raise the bucket's max_bytes, or give the server more disk", errNoRoom, ack.Error)
	case ack.Error.transient():
		return 0, errSilent
	}
	return 0, fmt.Errorf("natsstore: write: %w", ack.Error)
}

// drop removes the message of a revision; that it is gone already is no error.
func (s *Store) drop(ctx context.Context, rev uint64) error {
	var answer reply
	request := struct {
		Seq     uint64 `json:"seq"`
		NoErase bool   `json:"no_erase"`
	}{rev, true}
	err := s.api(ctx, "STREAM.MSG.DELETE", request, &answer)
	var e *apiError
	if errors.Is(err, errNothing) || errors.As(err, &e) && (e.ErrCode == codeNoSequence || e.ErrCode == codeDeleteFailed) {
		return nil
	}
	return err
}

// The numbers of the errors that say that a message is gone already.
const (
	codeNoSequence   = 10043
	codeDeleteFailed = 10057
)

// measure asks the leader about the stream, and sets the clock by its answer.
func (s *Store) measure(ctx context.Context) (*jetstream.StreamInfo, error) {
	var i struct {
		reply
		jetstream.StreamInfo
	}
	asked := s.clock.running()
	if err := s.api(ctx, "STREAM.INFO", struct{}{}, &i); err != nil {
		return nil, err
	}
	if i.TimeStamp.IsZero() {
		return nil, errors.New("natsstore: the server does not tell its time: NATS 2.11 or newer is needed")
	}
	s.clock.hear(i.TimeStamp, asked, s.clock.running())
	return &i.StreamInfo, nil
}
