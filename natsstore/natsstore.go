package natsstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
)

// Options set up a store, and the bucket where [Migrate] makes it. Zero fields
// are the defaults.
type Options struct {
	// Bucket is the name of the key-value bucket: letters, digits, dashes and
	// underscores. By default "idem".
	Bucket string
	// Domain is the JetStream domain that the bucket is in. By default the one
	// that the server is in.
	Domain string
	// Replicas is how many servers keep the bucket that Migrate makes: 1 (the
	// default), 3 or 5.
	Replicas int
	// MaxBytes bounds the bucket that Migrate makes, in bytes on disk. By default
	// there is no bound but the account's.
	MaxBytes int64
	// SyncAlways says that the servers have sync_interval "always", which a client
	// cannot read. It changes what [Store.Describe] and [Check] say, and nothing else.
	SyncAlways bool
	// MaxResult is the largest result kept, in bytes. By default, and at most,
	// what the server's max_payload leaves room for: it less 20 KiB.
	MaxResult int
	// SweepEvery is how often one of the processes that share the bucket drops what
	// is over. What is over reads as over from that very instant in any case. By
	// default every 30 s; a negative duration leaves it to [Store.Sweep]. It
	// should be the same in all processes.
	SweepEvery time.Duration
	// PollEvery is how often a claim that is waited for is looked at when nothing
	// is heard of it. By default every second.
	PollEvery time.Duration
	// Timeout bounds each call, whatever its context allows: then the store has
	// not answered. By default 5 s.
	Timeout time.Duration
	// Logger hears of settings that weaken the promise, and of sweeps that fail. By
	// default nothing is logged.
	Logger *slog.Logger

	// shift is added to the monotonic clock, in nanoseconds, by tests.
	shift *atomic.Int64
}

const (
	defaultBucket     = "idem"
	defaultSweepEvery = 30 * time.Second
	defaultPollEvery  = time.Second
	defaultTimeout    = 5 * time.Second

	// overhead is what a message takes besides its result, at most: the names and
	// the note in base64, and the rest of its header.
	overhead = 20 << 10
	maxNote  = 4096
)

// filled returns the options with every field filled in.
func (o *Options) filled() (Options, error) {
	var f Options
	if o != nil {
		f = *o
	}
	if f.Bucket == "" {
		f.Bucket = defaultBucket
	}
	if strings.Trim(f.Bucket, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return f, errors.New("natsstore: a bucket's name takes letters, digits, dashes and underscores")
	}
	if strings.ContainsAny(f.Domain, ".*> \t\r\n") {
		return f, errors.New("natsstore: a domain's name takes no dots, stars or spaces")
	}
	switch f.Replicas {
	case 0:
		f.Replicas = 1
	case 1, 3, 5:
	default:
		return f, fmt.Errorf("natsstore: replicas must be 1, 3 or 5, not %d", f.Replicas)
	}
	if f.SweepEvery == 0 {
		f.SweepEvery = defaultSweepEvery
	}
	if f.PollEvery <= 0 {
		f.PollEvery = defaultPollEvery
	}
	if f.Timeout <= 0 {
		f.Timeout = defaultTimeout
	}
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	return f, nil
}

// Store keeps records in a bucket. Its methods may be called from many
// goroutines at once. Make one with [New] or [Open].
type Store struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	opts   Options
	stream string
	// subjects begin with subjectPrefix in the stream. Where the bucket is in
	// another domain, writes go through its API's prefix.
	subjectPrefix, putPrefix, apiPrefix string

	// made is when the stream was made; name tells this store from others.
	made       time.Time
	name       string
	replicas   int
	durable    bool
	maxPayload int
	maxResult  int

	clock  *clock
	link   *link
	sights sights
	// full says that the bucket had little room left when it was last looked at,
	// and foreign, that it was another bucket than before.
	full, foreign atomic.Bool
	sweeper       sweeper
	waits         waits

	// life ends when the store is closed; closing is its channel.
	life    context.Context
	end     context.CancelFunc
	closing <-chan struct{}
	// background counts the goroutines that Close waits for.
	background sync.WaitGroup
	closeConn  bool
}

var (
	_ driver.Store     = (*Store)(nil)
	_ driver.Waiter    = (*Store)(nil)
	_ driver.Resolver  = (*Store)(nil)
	_ driver.Lister    = (*Store)(nil)
	_ driver.Sweeper   = (*Store)(nil)
	_ driver.Describer = (*Store)(nil)
	_ driver.Pinger    = (*Store)(nil)
)

// New returns the store that is kept in a bucket, which [Migrate] has made. The
// connection stays the caller's: it must outlive the store, and should have been
// made by [Connect], or with nats.ReconnectBufSize(-1), so that nothing is sent
// late after the connection was down. It refuses a bucket that is missing, that is
// of another version, or whose settings would lose records; what weakens the
// promise otherwise is logged.
//
// Until Close the store keeps one goroutine that follows the connection, and,
// unless SweepEvery is negative, one that sweeps.
func New(ctx context.Context, nc *nats.Conn, o *Options) (*Store, error) {
	s, err := bare(nc, o)
	if err != nil {
		return nil, err
	}
	changed := nc.StatusChanged()
	s.link.set(nc.Status() == nats.CONNECTED)
	s.background.Go(func() {
		defer nc.RemoveStatusListener(changed)
		s.link.follow(nc, changed, s.closing)
	})
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// bare is a store that knows its names, and nothing of its bucket yet.
func bare(nc *nats.Conn, o *Options) (*Store, error) {
	opts, err := o.filled()
	if err != nil {
		return nil, err
	}
	s := &Store{
		nc: nc, opts: opts, stream: "KV_" + opts.Bucket,
		subjectPrefix: "$KV." + opts.Bucket + ".",
		apiPrefix:     "$JS.API.",
		clock:         newClock(opts.shift),
		link:          newLink(nc.Status() == nats.CONNECTED),
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.closing = s.life.Done()
	if opts.Domain == "" {
		s.js, err = jetstream.New(nc)
	} else {
		s.apiPrefix = "$JS." + opts.Domain + ".API."
		s.putPrefix = s.apiPrefix
		s.js, err = jetstream.NewWithDomain(nc, opts.Domain)
	}
	if err != nil {
		return nil, fmt.Errorf("natsstore: %w", err)
	}
	id := driver.NewNonce()
	s.name = hex.EncodeToString(id[:])
	return s, nil
}

// start looks at the bucket, and begins to sweep.
func (s *Store) start(ctx context.Context) error {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	info, err := s.measure(bounded)
	if err != nil {
		return s.outcome(ctx, err)
	}
	for _, f := range s.findings(info) {
		switch f.Severity {
		case driver.SeverityError:
			return fmt.Errorf("natsstore: the bucket %s has %s %s: %s %s", s.opts.Bucket, f.Subject, f.Found, f.Means, f.Remedy)
		case driver.SeverityWarning:
			s.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "natsstore: a setting weakens the promise",
				slog.String("setting", f.Subject), slog.String("found", f.Found), slog.String("means", f.Means), slog.String("remedy", f.Remedy))
		}
	}
	s.made = info.Created
	s.replicas = info.Config.Replicas
	s.durable = s.replicas >= 3 || s.opts.SyncAlways
	s.maxPayload = int(s.nc.MaxPayload())
	if m := int64(info.Config.MaxMsgSize); m > 0 {
		s.maxPayload = int(min(m, int64(s.maxPayload)))
	}
	s.maxResult = s.maxPayload - overhead
	if s.opts.MaxResult > 0 {
		s.maxResult = min(s.opts.MaxResult, s.maxResult)
	}
	s.noticeRoom(info)
	// A full bucket still replays.
	if err := s.writeNothing(bounded); err != nil && !errors.Is(err, driver.ErrFull) {
		return s.outcome(ctx, err)
	}
	if s.opts.SweepEvery > 0 {
		s.background.Go(s.sweepForever)
	}
	return nil
}

// noticeRoom notes whether the bucket has room for new claims.
func (s *Store) noticeRoom(info *jetstream.StreamInfo) {
	c, st := &info.Config, &info.State
	s.full.Store(c.MaxBytes > 0 && st.Bytes > uint64(c.MaxBytes)/10*9 || c.MaxMsgs > 0 && st.Msgs > uint64(c.MaxMsgs)/10*9)
}

// Close ends the store: every later call returns [driver.ErrClosed], and so does
// every [Store.Wait] that waits. It waits for the store's goroutines. The
// connection stays open, unless [Open] made it. Closing again does nothing; it
// always returns nil.
func (s *Store) Close() error {
	s.waits.mu.Lock()
	s.end() // under the lock, so that nobody joins afterwards
	s.waits.mu.Unlock()
	s.background.Wait()
	s.waits.done.Wait()
	if s.closeConn {
		s.nc.Close()
	}
	return nil
}

// Describe says that the store is shared, and its largest result. It is durable
// when a crash of one machine loses nothing that was acknowledged: with three
// replicas, or where [Options.SyncAlways] says so.
func (s *Store) Describe() driver.Info {
	return driver.Info{Name: "nats", Durable: s.durable, Shared: true, MaxResult: s.maxResult}
}

// Ping returns nil when a claim could be made now: it writes a message to the
// bucket, under a subject of its own. It gives [driver.ErrFull] when the bucket
// is nearly full.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	info, err := s.measure(bounded)
	if err != nil {
		return s.outcome(ctx, err)
	}
	if err := s.recognise(info); err != nil {
		return err
	}
	if s.noticeRoom(info); s.full.Load() {
		return fmt.Errorf("%w: %w", driver.ErrFull, errNearlyFull)
	}
	return s.outcome(ctx, s.writeNothing(bounded))
}

// writeNothing writes a message that means nothing, to see that it can.
func (s *Store) writeNothing(ctx context.Context) error {
	subject := s.putPrefix + s.subjectPrefix + "ping"
	for try := 0; ; try++ {
		_, err := s.publish(ctx, &nats.Msg{Subject: subject})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errNoRoom):
			return fmt.Errorf("%w: %w", driver.ErrFull, err)
		case !errors.Is(err, errSilent) && !errors.Is(err, errNobody):
			return err
		}
		// What a user may not send is not answered; the connection is told.
		if last := s.nc.LastError(); errors.Is(last, nats.ErrPermissionViolation) && strings.Contains(last.Error(), s.subjectPrefix) {
			return fmt.Errorf("natsstore: the user may not publish to %s>: grant it", s.subjectPrefix)
		}
		if s.pause(ctx, try) != nil {
			return err
		}
	}
}

// recognise refuses a bucket that was made after the one that the store began
// with.
func (s *Store) recognise(info *jetstream.StreamInfo) error {
	if !info.Created.Equal(s.made) {
		s.foreign.Store(true)
		return errForeign
	}
	return nil
}

var errForeign = errors.New("natsstore: the bucket has been deleted and made again, so tokens begin anew: restart all processes that use it")

// enter is the beginning of every call.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.life.Err() != nil {
		return driver.ErrClosed
	}
	if s.foreign.Load() {
		return errForeign
	}
	return nil
}

// bounded gives a call its time limit.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.opts.Timeout)
}

// unanswered reports that an error means that no answer came.
func unanswered(err error) bool {
	for _, e := range []error{context.DeadlineExceeded, context.Canceled, errSilent, errNobody, errDown, driver.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// outcome is the error of a call to its caller: where no answer came, the
// context's error if that is why, and never that of a limit of the store's own.
func (s *Store) outcome(ctx context.Context, err error) error {
	switch {
	case !unanswered(err):
		return err
	case s.life.Err() != nil:
		return driver.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return errSilent
	}
	return err
}

// pause waits a moment, a longer one at each try, before something is tried
// again.
func (s *Store) pause(ctx context.Context, try int) error {
	d := time.Millisecond << min(try, 7)
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.closing:
		return driver.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// subject is where a key's record is.
func (s *Store) subject(key driver.Key) string { return s.subjectPrefix + "r." + key.String() }
