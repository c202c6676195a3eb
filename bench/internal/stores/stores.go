// Package stores compares the file store with bbolt: pairs of a claim and its
// completion, with a result of 1 KiB, each durable before the next begins.
package stores

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/idem-go/idem/bench/internal/stats"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
)

const resultSize = 1 << 10

// Options say how long to measure.
type Options struct {
	// Dir is where the stores are made.
	Dir string
	// Callers are the numbers of callers at once.
	Callers []int
	// Rounds is how often each comparison is repeated, Duration how long each
	// measurement takes.
	Rounds   int
	Duration time.Duration
	// Log is told what is being done.
	Log func(format string, args ...any)
}

// Comparison is the two stores at one number of callers. Each sample has a
// value for each round.
type Comparison struct {
	Callers int
	// File and Bolt are pairs a second.
	File, Bolt stats.Sample
	// Ratio is the file store's rate, in the mean of bbolt's before and after.
	Ratio stats.Sample
}

// Compare compares the stores at each number of callers.
func Compare(ctx context.Context, o Options) ([]Comparison, error) {
	var all []Comparison
	for _, n := range o.Callers {
		c := Comparison{Callers: n}
		if err := o.compare(ctx, &c); err != nil {
			return nil, fmt.Errorf("stores: %d callers: %w", n, err)
		}
		all = append(all, c)
	}
	return all, nil
}

func (o *Options) compare(ctx context.Context, c *Comparison) (err error) {
	dir, err := os.MkdirTemp(o.Dir, "pairs-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file, err := filestore.Open(filepath.Join(dir, "file"), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	bolt, err := openBolt(filepath.Join(dir, "bolt"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bolt.db.Close()) }()

	var keys atomic.Uint64
	before, err := Rate(ctx, c.Callers, o.Duration, &keys, bolt)
	for round := 0; round < o.Rounds && err == nil; round++ {
		var mine, after float64
		if mine, err = Rate(ctx, c.Callers, o.Duration, &keys, Driver(file)); err != nil {
			break
		}
		if after, err = Rate(ctx, c.Callers, o.Duration, &keys, bolt); err != nil {
			break
		}
		theirs := (before + after) / 2
		c.File, c.Bolt, c.Ratio = append(c.File, mine), append(c.Bolt, theirs), append(c.Ratio, mine/theirs)
		before = after
		o.Log("round %d of %d: file store at %d callers: %.0f pairs/s, bbolt %.0f", round+1, o.Rounds, c.Callers, mine, theirs)
	}
	return err
}

// Pairs is a store that can claim a key and complete it.
type Pairs interface {
	// Pair does both for the n-th key, which is fresh, with that result.
	Pair(ctx context.Context, n uint64, result []byte) error
}

// Rate returns how many pairs a second the callers get done in about d. Keys
// counts the keys used, so that none is used twice.
func Rate(ctx context.Context, callers int, d time.Duration, keys *atomic.Uint64, s Pairs) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var stop atomic.Bool
	var done atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range callers {
		all.Go(func() {
			result := make([]byte, resultSize)
			for !stop.Load() {
				n := keys.Add(1)
				binary.BigEndian.PutUint64(result, n)
				if err := s.Pair(ctx, n, result); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	stop.Store(true)
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return float64(done.Load()) / time.Since(began).Seconds(), nil
}

// Driver asks a store as idem does.
func Driver(s driver.Store) Pairs { return &driverPairs{s} }

type driverPairs struct{ store driver.Store }

const scope = "127.0.0.1/anonymous"

func (p *driverPairs) Pair(ctx context.Context, n uint64, result []byte) error {
	id := fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012x", n)
	key := driver.KeyOf(scope, id)
	asked := driver.Fingerprint{Rule: 1, Sum: key}
	reply, err := p.store.Claim(ctx, driver.ClaimRequest{
		Key: key, Scope: scope, ID: id, Fingerprint: asked, Nonce: driver.NewNonce(),
		Lease: 30 * time.Second, Tombstone: 720 * time.Hour,
	})
	if err != nil {
		return err
	}
	if !reply.Granted {
		return fmt.Errorf("a fresh key is %v", reply.Record.State)
	}
	_, err = p.store.Complete(ctx, driver.Ref{Key: key, Token: reply.Record.Token}, driver.Completion{
		Result: driver.Result{Body: result}, Scope: scope, ID: id, Fingerprint: asked,
		Retention: 24 * time.Hour, Tombstone: 720 * time.Hour,
	})
	return err
}

// boltPairs is what one would write by hand on bbolt: an Update to claim the
// key, and an Update for its result, each synced.
type boltPairs struct{ db *bbolt.DB }

func openBolt(path string) (*boltPairs, error) {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucket())
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &boltPairs{db}, nil
}

func bucket() []byte { return []byte("records") }

func (p *boltPairs) Pair(_ context.Context, n uint64, result []byte) error {
	id := fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012x", n)
	key := driver.KeyOf(scope, id)
	// The head of a record: state, fingerprint, token, lease, scope and id.
	head := make([]byte, 0, 128+resultSize)
	head = append(head, byte(driver.StateInFlight))
	head = append(head, key[:]...)
	head = binary.BigEndian.AppendUint64(head, n)
	head = binary.BigEndian.AppendUint64(head, uint64(time.Now().UnixNano()))
	head = append(append(head, scope...), id...)
	err := p.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket())
		if b.Get(key[:]) != nil {
			return errors.New("a fresh key is there already")
		}
		return b.Put(key[:], head)
	})
	if err != nil {
		return err
	}
	return p.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket())
		have := b.Get(key[:])
		if len(have) == 0 || driver.State(have[0]) != driver.StateInFlight {
			return errors.New("a claim is gone")
		}
		done := append(head, result...)
		done[0] = byte(driver.StateCompleted)
		return b.Put(key[:], done)
	})
}
