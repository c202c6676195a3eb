package mysqlstore

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

// Plain makes a store on MariaDB make the statements that it makes on MySQL.
func (o Options) Plain() Options {
	o.plain = true
	return o
}

// Pass lets d pass for the store: it moves the times in its rows, and that of
// its count.
func (s *Store) Pass(ctx context.Context, d time.Duration) error {
	us := micros(d)
	_, err := s.db.ExecContext(ctx, `UPDATE `+s.tables.records+` SET since = since - ?, due = due - ?`, us, us)
	if err == nil {
		_, err = s.db.ExecContext(ctx, `UPDATE `+s.tables.attempts+` SET due = due - ?`, us)
	}
	s.unknowns.mu.Lock()
	defer s.unknowns.mu.Unlock()
	s.unknowns.counted = s.unknowns.counted.Add(-d)
	return err
}

// DB is the store's pool, and Records the name of its table.
func (s *Store) DB() *sql.DB     { return s.db }
func (s *Store) Records() string { return s.tables.records }

// Waiting is how many claims are waited for.
func (s *Store) Waiting() int {
	s.waiters.mu.Lock()
	defer s.waiters.mu.Unlock()
	n := 0
	for _, tokens := range s.waiters.byKey {
		for _, w := range tokens {
			n += w.count
		}
	}
	return n
}

// ParseDSN is what Connect makes of a DSN.
func ParseDSN(dsn string) (user, password, addr, database string, tls bool, most int, err error) {
	cfg, most, err := parseDSN(dsn)
	if err != nil {
		return "", "", "", "", false, 0, err
	}
	return cfg.User, cfg.Passwd, cfg.Addr, cfg.DBName, cfg.TLS != nil || cfg.TLSConfig != "", most, nil
}

// Supported says whether a server's version is.
func Supported(version string) bool {
	return (&server{version: version, mariadb: strings.Contains(version, "MariaDB")}).supported()
}

// IsConflict says that a transaction may be tried again.
func IsConflict(err error) bool { return isConflict(err) }
