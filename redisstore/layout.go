package redisstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

// layout knows the names of the keys. A record's key and its partition's index
// have the partition's number in braces, so that a cluster puts them into one
// slot.
type layout struct {
	prefix string
	// indexes are the keys of the partitions' indexes. A record's key is its
	// index's with the record's own 32 bytes after it.
	indexes []string
}

func newLayout(prefix string, partitions int) layout {
	l := layout{prefix: prefix, indexes: make([]string, partitions)}
	for i := range l.indexes {
		l.indexes[i] = fmt.Sprintf("%s{%03x}", prefix, i)
	}
	return l
}

func (l *layout) partition(key *driver.Key) int {
	return int(binary.BigEndian.Uint16(key[:])) & (len(l.indexes) - 1)
}

// keys returns the two keys of a record.
func (l *layout) keys(key *driver.Key) (record, index string) {
	index = l.indexes[l.partition(key)]
	return index + string(key[:]), index
}

func (l *layout) channel() string { return l.prefix + "ended" }

// formatVersion is the version of the layout of keys and indexes. What a record
// is has a version of its own.
const formatVersion = 1

func formatKey(prefix string) string { return prefix + "format" }

// readFormat returns the number of partitions that a server has been made for,
// 0 where it has not been made ready.
func readFormat(ctx context.Context, c rueidis.Client, prefix string) (partitions int, err error) {
	m, err := askOf(ctx, c, func(b rueidis.Builder) rueidis.Completed { return b.Get().Key(formatKey(prefix)).Build() })
	var v string
	if err == nil {
		v, err = m.ToString()
	}
	switch {
	case rueidis.IsRedisNil(err):
		return 0, nil
	case err != nil:
		return 0, explain(ctx, err)
	}
	version, rest, _ := strings.Cut(v, " ")
	if n, err := strconv.Atoi(version); err == nil && n != formatVersion {
		return 0, &formatError{n}
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "partitions="))
	if err != nil || n < 1 || n > largestPartitions || n&(n-1) != 0 {
		return 0, fmt.Errorf("redisstore: the key %q is not what idem wrote there; look at who else uses the prefix", formatKey(prefix))
	}
	return n, nil
}

// formatError says that the layout is of another version.
type formatError struct{ version int }

// Error implements error.
func (e *formatError) Error() string {
	if e.version > formatVersion {
		return fmt.Sprintf("redisstore: the records are of format %d, this program knows %d; run the newer idem that made them", e.version, formatVersion)
	}
	return fmt.Sprintf("redisstore: the records are of format %d, this program needs %d; run 'idem store migrate'", e.version, formatVersion)
}

// Migrate makes a server ready for the store, and does nothing where it is. It
// may run many times, and many at once; what is there is never changed.
// o.Partitions counts at the first time only.
func Migrate(ctx context.Context, c rueidis.Client, o *Options) error {
	set, err := o.withDefaults()
	if err != nil {
		return err
	}
	v := fmt.Sprintf("%d partitions=%d", formatVersion, set.Partitions)
	_, err = askOf(ctx, c, func(b rueidis.Builder) rueidis.Completed {
		return b.Set().Key(formatKey(set.Prefix)).Value(v).Nx().Build()
	})
	if err != nil && !rueidis.IsRedisNil(err) {
		return explain(ctx, err)
	}
	_, err = readFormat(ctx, c, set.Prefix)
	return err
}
