package idem_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/memstore"
)

// The second call with a key returns what the first one gave; the work does
// not run again.
func ExampleDo() {
	guard := idem.New(memstore.New(nil), nil)
	defer guard.Close(context.Background())

	type Receipt struct{ Number int }
	charged := 0
	charge := func(context.Context) (Receipt, error) {
		charged++
		return Receipt{Number: 41 + charged}, nil
	}
	order := idem.Request{Key: idem.Key{Scope: "charges", ID: "order-7"}}
	for range 3 {
		receipt, err := idem.Do(context.Background(), guard, order, charge)
		fmt.Println(receipt.Number, err)
	}
	fmt.Println("charged", charged, "time")
	// Output:
	// 42 <nil>
	// 42 <nil>
	// 42 <nil>
	// charged 1 time
}

// DoOutcome tells whether the value is a replay.
func ExampleDoOutcome() {
	guard := idem.New(memstore.New(nil), nil)
	defer guard.Close(context.Background())

	send := func(context.Context) (string, error) { return "sent", nil }
	for range 2 {
		o, _ := idem.DoOutcome(context.Background(), guard, idem.Request{Key: idem.Key{Scope: "mails", ID: "welcome-3"}}, send)
		fmt.Println(o.Value, o.Replayed)
	}
	// Output:
	// sent false
	// sent true
}

// Begin is for work that does not fit into one function: its claim is held
// until it is ended.
func ExampleGuard_Begin() {
	guard := idem.New(memstore.New(nil), nil)
	defer guard.Close(context.Background())

	serve := func(id string) error {
		b, err := guard.Begin(context.Background(), &idem.Request{Key: idem.Key{Scope: "exports", ID: id}})
		switch {
		case err != nil:
			return err
		case b.Replayed:
			fmt.Printf("again: %s\n", b.Result.Body)
			return nil
		case b.Shared != nil:
			return fmt.Errorf("not now: %v", b.Shared)
		}
		claim := b.Claim
		// A second end does nothing: this one is for a panic in between.
		defer claim.Abandon()

		file := "rows of " + claim.Key().ID // the work, under claim.Context()
		if err := claim.Complete(idem.Result{Body: []byte(file)}); err != nil {
			return err
		}
		fmt.Printf("first: %s\n", file)
		return nil
	}
	fmt.Println(serve("may"))
	fmt.Println(serve("may"))
	// Output:
	// first: rows of may
	// <nil>
	// again: rows of may
	// <nil>
}

// Whoever asks for another thing under a used key is told so.
func ExampleRequest_fingerprint() {
	guard := idem.New(memstore.New(nil), nil)
	defer guard.Close(context.Background())

	pay := func(cents byte) error {
		req := idem.Request{
			Key:         idem.Key{Scope: "payments", ID: "p-1"},
			Fingerprint: idem.Fingerprint{Rule: 1, Sum: [32]byte{cents}}, // a hash of what is asked for
		}
		_, err := idem.Do(context.Background(), guard, req, func(context.Context) (bool, error) { return true, nil })
		return err
	}
	fmt.Println(pay(10))
	fmt.Println(pay(10))
	fmt.Println(errors.Is(pay(99), idem.ErrReused))
	// Output:
	// <nil>
	// <nil>
	// true
}

// A card that is declined stays declined: the error is the outcome, and the
// provider is not asked again.
func ExampleKeepError() {
	guard := idem.New(memstore.New(nil), nil)
	defer guard.Close(context.Background())

	asked := 0
	charge := func(context.Context) (string, error) {
		asked++
		return "", idem.KeepError(errors.New("card declined"))
	}
	req := idem.Request{Key: idem.Key{Scope: "charges", ID: "order-8"}}
	for range 2 {
		_, err := idem.Do(context.Background(), guard, req, charge)
		var kept *idem.KeptError
		fmt.Println(err, "· kept:", errors.As(err, &kept))
	}
	fmt.Println("asked", asked, "time")
	// Output:
	// card declined · kept: false
	// card declined · kept: true
	// asked 1 time
}

// When nothing was done, the next caller may run.
func ExampleReleaseError() {
	guard := idem.New(memstore.New(nil), nil)
	defer guard.Close(context.Background())

	attempts := 0
	charge := func(ctx context.Context) (string, error) {
		claim, _ := idem.FromContext(ctx)
		attempts = claim.Attempt()
		if attempts == 1 {
			return "", idem.ReleaseError(errors.New("no connection to the provider"))
		}
		return "charged", nil
	}
	req := idem.Request{Key: idem.Key{Scope: "charges", ID: "order-9"}}
	for range 2 {
		v, err := idem.Do(context.Background(), guard, req, charge)
		fmt.Printf("%q %v, attempt %d\n", v, err, attempts)
	}
	// Output:
	// "" no connection to the provider, attempt 1
	// "charged" <nil>, attempt 2
}

// A service that takes idempotency keys itself gets one that is the same at
// each attempt; with it the policy retry is exactly once.
func ExampleClaim_Derive() {
	guard := idem.New(memstore.New(nil), &idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown}})
	defer guard.Close(context.Background())

	keys := map[string]bool{}
	charge := func(ctx context.Context) (string, error) {
		claim, _ := idem.FromContext(ctx)
		keys[claim.Derive("charge")] = true // sent to the provider as its Idempotency-Key
		if claim.Attempt() < 3 {
			return "", errors.New("the provider did not answer") // was it done? unknown
		}
		return "charged", nil
	}
	req := idem.Request{Key: idem.Key{Scope: "charges", ID: "order-10"}}
	for range 3 {
		v, err := idem.Do(context.Background(), guard, req, charge)
		fmt.Printf("%q %v\n", v, errors.Is(err, idem.ErrUnknown))
	}
	fmt.Println(len(keys), "key")
	// Output:
	// "" true
	// "" true
	// "charged" false
	// 1 key
}

// A resolver finds out what became of an operation whose owner could not tell.
func ExamplePolicy_resolver() {
	ledger := map[string]string{} // stands for the provider's books
	guard := idem.New(memstore.New(nil), &idem.Options{Policy: idem.Policy{
		Unknown: idem.ResolveUnknown,
		Resolver: func(_ context.Context, u idem.Unknown) (idem.Resolution, error) {
			if number, ok := ledger[u.Key.ID]; ok {
				return idem.Done(idem.Result{Body: []byte(number)}), nil
			}
			return idem.NotDone(), nil
		},
	}})
	defer guard.Close(context.Background())

	req := idem.Request{Key: idem.Key{Scope: "charges", ID: "order-11"}}
	b, _ := guard.Begin(context.Background(), &req)
	ledger["order-11"] = "charge-5" // the work is done,
	_ = b.Claim.Abandon()           // and its answer lost

	b, err := guard.Begin(context.Background(), &req)
	fmt.Printf("%s %v %v\n", b.Result.Body, b.Replayed, err)
	// Output:
	// charge-5 true <nil>
}

// Policy.Errors classifies errors in one place.
func ExamplePolicy_errors() {
	var errDeclined = errors.New("declined")
	guard := idem.New(memstore.New(nil), &idem.Options{Policy: idem.Policy{
		Wait: time.Second,
		Errors: func(err error) idem.ErrorVerdict {
			if errors.Is(err, errDeclined) {
				return idem.ErrorKeep
			}
			return idem.ErrorUnknown
		},
	}})
	defer guard.Close(context.Background())

	req := idem.Request{Key: idem.Key{Scope: "charges", ID: "order-12"}}
	for range 2 {
		_, err := idem.Do(context.Background(), guard, req, func(context.Context) (int, error) { return 0, errDeclined })
		fmt.Println(err)
	}
	// Output:
	// declined
	// declined
}
