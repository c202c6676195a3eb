package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

var errReplicas = errors.New("redisstore: written, but not yet by as many replicas as WaitReplicas asks for")

// The words by which a server begins an error, or which it puts into the error
// of a script that made the call.
const (
	wordFull     = "OOM command not allowed"
	wordReadOnly = "READONLY"
	wordType     = "WRONGTYPE"
)

// transient reports that a call which gave this error may be answered soon.
func transient(err error) bool {
	// A client that follows its master closes connections for which it has others.
	if errors.Is(err, errReplicas) {
		return false
	}
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return true
	}
	for _, word := range []string{"LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "BUSY ", wordReadOnly} {
		if said(e, word) {
			return true
		}
	}
	return false
}

// said reports whether an error begins with a word; before version 7 that stands
// after the name of the script that got it.
func said(err error, word string) bool {
	text := err.Error()
	return strings.HasPrefix(text, word) || strings.Contains(text, "-"+word) || strings.Contains(text, ": "+word)
}

// explain is what a caller is told of an error: that of a context that ended,
// ErrFull, or that the store does not answer, and why.
func explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e, ok := rueidis.IsRedisErr(err)
	switch {
	case errors.Is(err, errReplicas), errors.Is(err, driver.ErrClosed):
		return err
	case errors.Is(err, rueidis.ErrClosing):
		return errors.New("redisstore: the client is closed")
	case !ok:
		// The timeouts of a connection must not look like the caller's.
		return fmt.Errorf("redisstore: the server does not answer: %s", err.Error())
	case said(e, wordFull):
		return fmt.Errorf("%w: the server has reached its maxmemory; give it more, or keep results for less long", driver.ErrFull)
	case said(e, wordReadOnly):
		return errors.New("redisstore: the server is a read-only replica; connect to its master, or through its sentinels")
	case said(e, "NOAUTH"), said(e, "WRONGPASS"):
		return errors.New("redisstore: the server refuses the user or the password")
	case said(e, "NOPERM"):
		return fmt.Errorf("redisstore: the user may not do what the store needs; allow it @scripting, @read, @write and @pubsub on the keys and channels of the prefix (%s)", firstLine(e.Error()))
	case said(e, "MISCONF"):
		return errors.New("redisstore: the server takes no writes because it could not save to its disk (MISCONF); look at its log and its disk")
	case said(e, "NOREPLICAS"):
		return errors.New("redisstore: the server takes no writes because too few replicas are connected (min-replicas-to-write)")
	}
	return fmt.Errorf("redisstore: the server says: %s", firstLine(e.Error()))
}

// unreadable turns what a server says of a key of another type into what that
// means for the record.
func unreadable(err error, key driver.Key) error {
	if err != nil && strings.Contains(err.Error(), wordType) {
		return &driver.UnreadableError{Key: key, Reason: "under its key is something that no store wrote"}
	}
	return err
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s[:min(len(s), 200)]
}
