package filestore

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
)

// What the engine takes at most, the block cache apart: memory for memTables
// tables in memory of memTableSize each. A table grows to its size as it is
// written to, so a store that is not busy takes far less.
const (
	memTableSize = 32 << 20
	memTables    = 4
	maxOpenFiles = 512
)

// engineFormat is the engine's own format. It marks in its log up to where it
// has been synced, and has checksums in the footers of its tables. Values in
// files of their own, which the next format brings, have no use here: results
// are in a key space that compactions hardly touch.
const engineFormat = pebble.FormatTableFormatV6

func engineOptions(o *Options, g *gate, logger *slog.Logger) *pebble.Options {
	opts := &pebble.Options{
		FS:                          g,
		FormatMajorVersion:          engineFormat,
		Merger:                      sumMerger(),
		CacheSize:                   o.CacheBytes,
		MemTableSize:                o.memTable,
		MemTableStopWritesThreshold: memTables,
		MaxOpenFiles:                maxOpenFiles,
		// Fewer and larger compactions than the engine's defaults: a fifth less work
		// for each record. No write waits for one.
		L0CompactionThreshold: 4,
		L0StopWritesThreshold: 1000,
		LBaseMaxBytes:         256 << 20,
		// A range of results that was dropped leaves the disk although nothing is
		// written any more.
		FlushDelayDeleteRange: flushDelay,
		Logger:                &engineLogger{logger, g},
	}
	seldom := &seldom{}
	opts.EventListener = &pebble.EventListener{
		// The engine tries again at once, and again.
		BackgroundError: func(err error) {
			if silent, ok := seldom.now(); ok {
				logger.Error("filestore: engine", "error", err, "not_logged_before", silent)
			}
		},
		// Its default ends the process; here the records that cannot be read
		// say so when they are asked for.
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			logger.Error("filestore: a file is damaged", "path", info.Path, "error", info.Details)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			logger.Warn("filestore: writes wait for the engine", "reason", info.Reason)
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		// One index a table, not one of indexes.
		opts.Levels[i].IndexBlockSize = 256 << 10
		opts.Levels[i].Compression = func() *block.CompressionProfile { return block.FastestCompression }
	}
	// What is young is written once more soon.
	opts.Levels[0].Compression = func() *block.CompressionProfile { return block.NoCompression }
	return opts
}

// seldom lets one line a second through.
type seldom struct {
	mu     sync.Mutex
	last   time.Time
	silent int
}

// now reports whether a line may be logged, and how many were not since the last.
func (s *seldom) now() (silent int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := time.Now(); s.last.IsZero() || t.Sub(s.last) >= time.Second {
		silent, s.last, s.silent = s.silent, t, 0
		return silent, true
	}
	s.silent++
	return 0, false
}

// engineLogger takes what the engine says.
type engineLogger struct {
	log  *slog.Logger
	gate *gate
}

func (l *engineLogger) Infof(format string, args ...any) {
	l.log.Debug("filestore: engine", "says", fmt.Sprintf(format, args...))
}

func (l *engineLogger) Errorf(format string, args ...any) {
	l.log.Error("filestore: engine", "says", fmt.Sprintf(format, args...))
}

// Fatalf is called where the engine would end the process: it must not go on.
func (l *engineLogger) Fatalf(format string, args ...any) {
	l.gate.shut(&diskError{"engine", fmt.Errorf(format, args...)})
	park()
}

// openEngine opens the engine. A failure of the disk on the way parks the
// goroutine that met it, so that goroutine is one of its own.
func openEngine(dir string, opts *pebble.Options, failed <-chan struct{}, cause func() error) (*pebble.DB, error) {
	type opened struct {
		db  *pebble.DB
		err error
	}
	done := make(chan opened, 1)
	go func() {
		var o opened
		defer func() {
			if r := recover(); r != nil {
				o = opened{nil, fmt.Errorf("engine: %v", r)}
			}
			done <- o
		}()
		o.db, o.err = pebble.Open(dir, opts)
	}()
	select {
	case o := <-done:
		return o.db, o.err
	case <-failed:
		return nil, cause()
	}
}

// recovered is what the engine has of the store itself.
type recovered struct {
	counts counts
	epoch  uint64
	time   clockPair
}

var errNoMeta = errors.New("the store's own entries are missing")

func readRecovered(db *pebble.DB) (recovered, error) {
	var r recovered
	err := get(db, metaCounts, func(b []byte) (err error) {
		r.counts, err = decodeCounts(b)
		return err
	})
	if err != nil {
		return r, err
	}
	err = get(db, metaEpoch, func(b []byte) error {
		d := decoder{b: b}
		r.epoch = d.uvarint()
		if d.bad {
			return errMalformed
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	err = get(db, metaTime, func(b []byte) (err error) {
		r.time, err = decodePair(b)
		return err
	})
	return r, err
}

func get(db *pebble.DB, name string, f func([]byte) error) error {
	b, closer, err := db.Get([]byte(name))
	if errors.Is(err, pebble.ErrNotFound) {
		return errNoMeta
	}
	if err != nil {
		return err
	}
	return errors.Join(f(b), closer.Close())
}

// inspect looks at what the engine would come back with, and changes nothing:
// a store that is refused is left as it was found.
func inspect(dir string, opts *pebble.Options, failed <-chan struct{}, cause func() error) (r recovered, err error) {
	opts.ReadOnly = true
	opts.ErrorIfNotExists = true
	db, err := openEngine(dir, opts, failed, cause)
	if err != nil {
		return r, err
	}
	r, err = readRecovered(db)
	if err == nil {
		err = readClaims(db)
	}
	return r, errors.Join(err, db.Close())
}

// readClaims reads what an opening reads of the claims.
func readClaims(db *pebble.DB) error {
	it, err := db.NewIter(claims())
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if _, err := it.ValueAndErr(); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// claims are the bounds of the claims.
func claims() *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: []byte{spaceClaim}, UpperBound: []byte{spaceClaim + 1}}
}

// oneLine takes the line breaks out of an engine's error.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
