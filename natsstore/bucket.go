package natsstore

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The bucket says in its metadata of what format its records are.
const (
	formatKey = "idem.format"
	format    = "1"
)

// Migrate makes the bucket that the options name, or mends its settings where
// they are not as they must be; it does not change the number of replicas or the
// bound of a bucket that is there. It may run while the bucket is used, and more
// than once at the same time. It refuses a bucket that is not idem's, and one that
// a newer version made.
func Migrate(ctx context.Context, nc *nats.Conn, o *Options) error {
	s, err := bare(nc, o)
	if err != nil {
		return err
	}
	defer s.end()
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	for try := 0; ; try++ {
		err := s.migrate(bounded)
		if err == nil || !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return s.outcome(ctx, err)
		}
		// Another made it at the same time: it is looked at again.
		if s.pause(bounded, try) != nil {
			return s.outcome(ctx, err)
		}
	}
}

func (s *Store) migrate(ctx context.Context) error {
	info, err := s.measure(ctx)
	var none *apiError
	if errors.As(err, &none) && none.ErrCode == codeNoStream {
		return s.create(ctx)
	}
	if err != nil {
		return err
	}
	if err := s.ours(&info.Config); err != nil {
		return err
	}
	want := info.Config
	s.must(&want)
	if len(s.wrong(&info.Config)) == 0 && s.notifies(&info.Config) {
		return nil
	}
	if _, err := s.js.UpdateStream(ctx, want); err != nil {
		return fmt.Errorf("natsstore: mend the bucket %s: %w", s.opts.Bucket, err)
	}
	return nil
}

func (s *Store) create(ctx context.Context) error {
	c := jetstream.StreamConfig{
		Name:        s.stream,
		Description: "idem: records of idempotency keys",
		Storage:     jetstream.FileStorage,
		Replicas:    s.opts.Replicas,
		MaxBytes:    -1,
	}
	if s.opts.MaxBytes > 0 {
		c.MaxBytes = s.opts.MaxBytes
	}
	s.must(&c)
	if _, err := s.js.CreateStream(ctx, c); err != nil {
		return fmt.Errorf("natsstore: make the bucket %s: %w", s.opts.Bucket, err)
	}
	return nil
}

// must sets what a bucket must have: that it is a key-value bucket of one
// revision per key, that nothing in it is forgotten by itself, and that its reads
// go to the leader.
func (s *Store) must(c *jetstream.StreamConfig) {
	c.Subjects = []string{s.subjectPrefix + ">"}
	c.Retention = jetstream.LimitsPolicy
	c.MaxMsgsPerSubject = 1
	c.Discard = jetstream.DiscardNew
	c.DiscardNewPerSubject = false
	c.MaxAge = 0
	c.AllowRollup = true
	c.AllowDirect = false
	c.DenyDelete = false
	c.RePublish = &jetstream.RePublish{
		Source: s.subjectPrefix + "r.>", Destination: notifyPrefix(s.opts.Bucket) + "r.>", HeadersOnly: true,
	}
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	c.Metadata[formatKey] = format
}

// ours refuses a bucket that is not idem's, or not of this version.
func (s *Store) ours(c *jetstream.StreamConfig) error {
	switch c.Metadata[formatKey] {
	case format:
		return nil
	case "":
		return fmt.Errorf("natsstore: the bucket %s was not made by idem: name another one, and make it with `idem store migrate`", s.opts.Bucket)
	}
	return fmt.Errorf("natsstore: the bucket %s is of another version of idem: use that version or a newer one", s.opts.Bucket)
}

// notifies reports that the server tells of what is stored.
func (s *Store) notifies(c *jetstream.StreamConfig) bool {
	r := c.RePublish
	return r != nil && r.Source == s.subjectPrefix+"r.>" && r.Destination == notifyPrefix(s.opts.Bucket)+"r.>"
}

// setting is one of a bucket's that is not as it must be.
type setting struct{ name, found, means string }

// wrong returns the settings that would break the promise, and that Migrate
// mends.
func (s *Store) wrong(c *jetstream.StreamConfig) []setting {
	var w []setting
	add := func(bad bool, name, found, means string) {
		if bad {
			w = append(w, setting{name, found, means})
		}
	}
	add(c.MaxMsgsPerSubject != 1, "max_msgs_per_subject", fmt.Sprint(c.MaxMsgsPerSubject), "old revisions are kept, and take room for nothing.")
	add(c.Discard != jetstream.DiscardNew || c.DiscardNewPerSubject, "discard", c.Discard.String(), "a full bucket forgets records, and what was done is done again.")
	add(c.MaxAge != 0, "max_age", c.MaxAge.String(), "records are forgotten by their age, and what was done is done again.")
	add(c.Retention != jetstream.LimitsPolicy, "retention", c.Retention.String(), "records are forgotten once somebody has read them.")
	add(c.AllowDirect, "allow_direct", "true", "tools may be answered by a replica that is behind.")
	add(c.DenyDelete, "deny_delete", "true", "what is over cannot be dropped.")
	add(len(c.Subjects) != 1 || c.Subjects[0] != s.subjectPrefix+">", "subjects", fmt.Sprint(c.Subjects), "records are not where they are looked for.")
	return w
}
