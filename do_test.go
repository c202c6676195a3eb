package idem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

type receipt struct {
	ID     string            `json:"id"`
	Amount int64             `json:"amount"`
	Tags   map[string]string `json:"tags"`
	At     time.Time         `json:"at"`
}

func TestDoReplaysEqualValues(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		want := receipt{"r1", 9007199254740993, map[string]string{"a": "é\x00"}, time.Now().UTC()}
		runs := 0
		for i := range 3 {
			o, err := idem.DoOutcome(t.Context(), g, *request("k"), func(context.Context) (receipt, error) {
				runs++
				return want, nil
			})
			if err != nil || !reflect.DeepEqual(o.Value, want) || o.Replayed != (i > 0) {
				t.Errorf("call %d: %+v, %v", i, o, err)
			}
		}
		if runs != 1 {
			t.Errorf("%d runs", runs)
		}
	})
}

var errProvider = errors.New("provider says no")

func TestDoErrors(t *testing.T) {
	wrapped := fmt.Errorf("charging: %w", errProvider)
	classify := func(err error) idem.ErrorVerdict {
		switch {
		case errors.Is(err, io.EOF):
			return idem.ErrorKeep
		case errors.Is(err, io.ErrNoProgress):
			return idem.ErrorRelease
		case errors.Is(err, io.ErrShortWrite):
			panic("classify")
		}
		return idem.ErrorUnknown
	}
	for _, tt := range []struct {
		name  string
		err   error
		state driver.State
		// is is what the caller finds in its error, text what the error says.
		is   error
		text string
	}{
		{"plain", errProvider, driver.StateUnknown, idem.ErrUnknown, ""},
		{"plain keeps its cause", errProvider, driver.StateUnknown, errProvider, ""},
		{"kept", idem.KeepError(errProvider), driver.StateCompleted, errProvider, "provider says no"},
		{"kept, wrapped inside", idem.KeepError(wrapped), driver.StateCompleted, errProvider, "charging: provider says no"},
		{"kept, wrapped outside", fmt.Errorf("pay: %w", idem.KeepError(errProvider)), driver.StateCompleted, errProvider, "pay: provider says no"},
		{"kept, joined", errors.Join(io.ErrClosedPipe, idem.KeepError(errProvider)), driver.StateCompleted, errProvider, ""},
		{"released", idem.ReleaseError(errProvider), driver.StateAbsent, errProvider, "provider says no"},
		{"released, wrapped outside", fmt.Errorf("pay: %w", idem.ReleaseError(errProvider)), driver.StateAbsent, errProvider, "pay: provider says no"},
		{"the mark wins over Errors", idem.ReleaseError(io.EOF), driver.StateAbsent, io.EOF, "EOF"},
		{"classified keep", io.EOF, driver.StateCompleted, io.EOF, "EOF"},
		{"classified release", io.ErrNoProgress, driver.StateAbsent, io.ErrNoProgress, ""},
		{"classified unknown", io.ErrUnexpectedEOF, driver.StateUnknown, io.ErrUnexpectedEOF, ""},
		{"classify panics", io.ErrShortWrite, driver.StateUnknown, idem.ErrUnknown, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newStore()
				g := guard(t, store, &idem.Options{Policy: idem.Policy{Errors: classify}})
				runs := 0
				fails := func(context.Context) (int, error) { runs++; return 7, tt.err }
				v, err := idem.Do(t.Context(), g, *request("k"), fails)
				if !errors.Is(err, tt.is) || v != 0 || tt.text != "" && err.Error() != tt.text {
					t.Errorf("first: %d, %v", v, err)
				}
				if (tt.state == driver.StateUnknown) != errors.Is(err, idem.ErrUnknown) {
					t.Errorf("first: %v", err)
				}
				state(t, store, request("k"), tt.state)
				o, err := idem.DoOutcome(t.Context(), g, *request("k"), fails)
				var kept *idem.KeptError
				switch tt.state {
				case driver.StateCompleted:
					if !errors.As(err, &kept) || !o.Replayed || tt.text != "" && kept.Text != tt.text || runs != 1 {
						t.Errorf("again: %+v, %v after %d runs", o, err, runs)
					}
				case driver.StateAbsent:
					if errors.As(err, &kept) || !errors.Is(err, tt.is) || runs != 2 {
						t.Errorf("again: %+v, %v after %d runs", o, err, runs)
					}
				default:
					if !errors.Is(err, idem.ErrUnknown) || runs != 1 {
						t.Errorf("again: %+v, %v after %d runs", o, err, runs)
					}
				}
			})
		})
	}
	if idem.KeepError(nil) != nil || idem.ReleaseError(nil) != nil {
		t.Error("no error became one")
	}
}

// Those who wait share a released error and do not run in their turn.
func TestDoSharesAReleasedError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		runs := make(chan struct{}, 10)
		together(10, func(i int) {
			_, err := idem.Do(t.Context(), g, *request("k"), func(context.Context) (int, error) {
				runs <- struct{}{}
				time.Sleep(time.Second)
				return 0, idem.ReleaseError(errProvider)
			})
			if !errors.Is(err, errProvider) {
				t.Errorf("caller %d: %v", i, err)
			}
		})
		if len(runs) != 1 {
			t.Errorf("%d runs", len(runs))
		}
	})
}

type unencodable struct{ How string }

func (u unencodable) MarshalJSON() ([]byte, error) {
	if u.How == "panic" {
		panic("cannot be encoded")
	}
	return nil, errors.New("cannot be encoded")
}

// The work was done: its first caller has the value, and it is not done again.
func TestTrap15ValuesThatCannotBeKept(t *testing.T) {
	for name, value := range map[string]any{
		"error": unencodable{"error"}, "panic": unencodable{"panic"}, "channel": make(chan int), "too large": strings.Repeat("x", idem.DefaultMaxResult),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newStore()
				g := guard(t, store, nil)
				v, err := idem.Do(t.Context(), g, *request("k"), func(context.Context) (any, error) { return value, nil })
				if err != nil || !reflect.DeepEqual(v, value) {
					t.Errorf("first: %v, %v", v, err)
				}
				state(t, store, request("k"), driver.StateCompleted)
				_, err = idem.Do(t.Context(), g, *request("k"), func(context.Context) (any, error) {
					t.Error("the work ran again")
					return nil, nil
				})
				wants(t, err, idem.ErrNotStored)
			})
		})
	}
}

// mute is an error whose text panics.
type mute struct{}

func (mute) Error() string { panic("no text") }

func TestTrap14PanicsLeaveNoKeyStuck(t *testing.T) {
	for name, work := range map[string]func(context.Context) (int, error){
		"panic":          func(context.Context) (int, error) { panic("work") },
		"nil panic":      func(context.Context) (int, error) { panic(nil) },
		"goexit":         func(context.Context) (int, error) { runtime.Goexit(); return 0, nil },
		"error's method": func(context.Context) (int, error) { return 0, idem.KeepError(mute{}) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newStore()
				rec := &recorder{}
				g := guard(t, store, &idem.Options{Observer: rec})
				gone := make(chan any)
				go func() {
					returned := false
					defer func() {
						p := recover()
						if returned || (p == nil) != (name == "goexit") {
							t.Errorf("the panic was swallowed: %v", p)
						}
						close(gone)
					}()
					_, _ = idem.Do(t.Context(), g, *request("k"), work)
					returned = true
				}()
				synctest.Wait()
				<-gone
				state(t, store, request("k"), driver.StateUnknown)
				refused(t, g, request("k"), idem.ErrUnknown)
				if rec.count(idem.EventAbandoned) != 1 {
					t.Errorf("events %v", rec.kinds())
				}
			})
		})
	}
}

// The caller is told why its work was cancelled.
func TestDoTellsWhyItWasCancelled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		g := guard(t, store, nil)
		untilCancelled := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		_, err := idem.Do(t.Context(), g, *request("max-run"), untilCancelled)
		wants(t, err, idem.ErrUnknown)
		wants(t, err, idem.ErrMaxRun)
		wants(t, err, context.Canceled)
		time.AfterFunc(time.Second, func() { store.set(down("renew")) })
		_, err = idem.Do(t.Context(), g, *request("lost"), untilCancelled)
		wants(t, err, idem.ErrUnknown)
		wants(t, err, idem.ErrLost)
	})
}

// What was not written by Do, or was written of another type, is said to be so.
func TestDoReadsOnlyItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		never := func(context.Context) (int, error) { t.Error("the work ran"); return 0, nil }
		must(t, begin(t, g, request("foreign")).Complete(body("1")))
		_, err := idem.Do(t.Context(), g, *request("foreign"), never)
		wants(t, err, idem.ErrUnreadable)
		_, err = idem.Do(t.Context(), g, *request("text"), func(context.Context) (string, error) { return "x", nil })
		must(t, err)
		_, err = idem.Do(t.Context(), g, *request("text"), never)
		wants(t, err, idem.ErrUnreadable)
		var typed *json.UnmarshalTypeError
		if !errors.As(err, &typed) {
			t.Errorf("%v", err)
		}
	})
}

// The result is lost to its caller as long as it is not saved: nobody may be
// told of it.
func TestDoUnsaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), down("complete"))
		g := guard(t, store, nil)
		v, err := idem.Do(t.Context(), g, *request("k"), func(context.Context) (int, error) { return 7, nil })
		if v != 0 || !errors.Is(err, idem.ErrUnsaved) {
			t.Errorf("%d, %v", v, err)
		}
		_, err = idem.Do(t.Context(), g, *request("kept"), func(context.Context) (int, error) { return 0, idem.KeepError(errProvider) })
		wants(t, err, idem.ErrUnsaved)
		wants(t, err, errProvider)
		store.set(nil)
	})
}
