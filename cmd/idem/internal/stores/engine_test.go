package stores

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What does not answer is given up, whether it heeds its context or not, and
// what it gives too late is closed.
func TestBounded(t *testing.T) {
	open := func(delay time.Duration, heeds bool) (discarded *int, took time.Duration, err error) {
		began := time.Now()
		discarded = new(int)
		_, err = bounded(context.Background(), func(ctx context.Context) (int, error) {
			if heeds {
				select {
				case <-time.After(delay):
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			} else {
				time.Sleep(delay)
			}
			return 7, nil
		}, func(n int) { *discarded = n })
		return discarded, time.Since(began), err
	}
	synctest.Test(t, func(t *testing.T) {
		if n, took, err := open(Patience-1, false); err != nil || took != Patience-1 || *n != 0 {
			t.Errorf("in time: %v after %v, %d discarded", err, took, *n)
		}
		if n, took, err := open(time.Hour, true); err == nil || took != Patience || *n != 0 || !strings.Contains(err.Error(), "no answer within 10s") {
			t.Errorf("too late, and heeds its context: %v after %v, %d discarded", err, took, *n)
		}
		n, took, err := open(time.Hour, false)
		if err == nil || took != Patience+time.Second || !strings.Contains(err.Error(), "no answer within 10s") {
			t.Errorf("too late, and heeds nothing: %v after %v", err, took)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if *n != 7 {
			t.Errorf("what came too late was not closed: %d", *n)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = bounded(ctx, func(context.Context) (int, error) { time.Sleep(time.Minute); return 0, nil }, func(int) {})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's context: %v", err)
		}
		refused := errors.New("refused")
		if _, err := bounded(context.Background(), func(context.Context) (int, error) { return 0, refused }, func(int) {}); !errors.Is(err, refused) || err.Error() != "refused" {
			t.Errorf("an error in time: %v", err)
		}
		time.Sleep(time.Hour) // until all that was given up has ended
	})
}

// A client that repeats the password, in any of its spellings, is not believed.
func TestErrorsAreDiscreet(t *testing.T) {
	for dsn, says := range map[string][]string{
		"postgres://ann:hunt%40er2@db/idem":             {"hunt%40er2", "hunt@er2"},
		"postgres://db/idem?password=hunt%2Ber2":        {"hunt%2Ber2", "hunt+er2"},
		"postgres://db/idem?sslpassword=hunt+er2":       {"hunt+er2", "hunt er2"},
		"redis://:hunter2@db":                           {"hunter2"},
		"redis://a:hunter2@db?sentinel_password=hunter": {"hunter2", "hunter"},
		"nats://hunter2@db":                             {"hunter2"},
		"mysql://ann:hunter2@db/idem":                   {"hunter2"},
	} {
		d, err := Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range says {
			cause := fmt.Errorf("no such user %s here", s)
			if err := d.discreet(cause); err == nil || strings.Contains(err.Error(), "hunt") || !strings.Contains(err.Error(), "no such user … here") || errors.Is(err, cause) {
				t.Errorf("%s: %v", dsn, err)
			}
		}
		if err := d.discreet(context.Canceled); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: another error was changed: %v", dsn, err)
		}
	}
	// A password that is the user's name, or the database's, would be found
	// wherever these are.
	d, err := Parse("postgres://idem:idem@db/idem")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.discreet(errors.New("idem store migrate")); err.Error() != "idem store migrate" {
		t.Error(err)
	}
}
