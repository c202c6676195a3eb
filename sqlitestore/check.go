package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strings"

	"github.com/idem-go/idem/driver"
)

// Check looks at a database: whether its tables are there and right, and at every
// setting that keeps the promise or breaks it. What it reads of a connection's own
// settings (synchronous, locking_mode) is that of one connection of the pool; the
// others are alike where the DSN sets them. It changes nothing. The error is that of
// a database which cannot be asked at all.
func Check(ctx context.Context, db *sql.DB, o *Options) ([]driver.Finding, error) {
	set, err := o.settings()
	if err != nil {
		return nil, err
	}
	return check(ctx, db, &set, true)
}

// The subjects that a store's durability depends on.
const (
	subjectJournal     = "journal_mode"
	subjectSynchronous = "synchronous"
)

// durable says that what is acknowledged survives a power cut.
func durable(findings []driver.Finding) bool {
	for _, f := range findings {
		if (f.Subject == subjectJournal || f.Subject == subjectSynchronous) && f.Severity != driver.SeverityOK {
			return false
		}
	}
	return true
}

// checker looks at one connection.
type checker struct {
	conn     *sql.Conn
	set      *settings
	findings []driver.Finding
}

func (c *checker) found(severity driver.Severity, subject, found, means, remedy string) {
	c.findings = append(c.findings, driver.Finding{Severity: severity, Subject: subject, Found: found, Means: means, Remedy: remedy})
}

func (c *checker) ok(subject, found string) { c.found(driver.SeverityOK, subject, found, "", "") }

func (c *checker) pragma(ctx context.Context, name string) (value string, err error) {
	err = c.conn.QueryRowContext(ctx, "PRAGMA "+name).Scan(&value)
	return strings.ToLower(value), explain(err)
}

// check looks at what New needs to know, or, deeply, at all.
func check(ctx context.Context, db *sql.DB, set *settings, deep bool) (findings []driver.Finding, err error) {
	for try := 0; ; try++ {
		findings, err = checkOnce(ctx, db, set, deep)
		if err == nil || !isBusy(err) || pause(ctx, try) != nil {
			if err != nil && ctx.Err() != nil {
				err = ctx.Err()
			}
			return findings, err
		}
	}
}

func checkOnce(ctx context.Context, db *sql.DB, set *settings, deep bool) ([]driver.Finding, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = conn.Close() }() // it goes back to the pool
	c := &checker{conn: conn, set: set}
	steps := []func(context.Context) error{c.version, c.file, c.journal, c.locking, c.writable, c.clock}
	if deep {
		steps = append(steps, c.quickCheck)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	// Last, so that Check tells of the settings as well.
	err = c.schema(ctx)
	if err != nil && deep {
		c.found(driver.SeverityError, "schema", "not usable", reason(err), "run idem store migrate")
		err = nil
	}
	return c.findings, err
}

// reason is an error without the package's name.
func reason(err error) string { return strings.TrimPrefix(err.Error(), "sqlitestore: ") }

func (c *checker) version(ctx context.Context) error {
	text, n, err := version(ctx, c.conn)
	if err != nil {
		return err
	}
	if n < oldestSQLite {
		c.found(driver.SeverityError, "sqlite_version", text, "this SQLite lacks what the store uses; 3.37 is the oldest that has it", "use a newer version of the driver")
		return nil
	}
	c.ok("sqlite_version", text)
	return nil
}

func (c *checker) file(ctx context.Context) error {
	var seq, name, file sql.NullString
	err := c.conn.QueryRowContext(ctx, "SELECT seq, name, file FROM pragma_database_list WHERE name = 'main'").Scan(&seq, &name, &file)
	if err != nil {
		return explain(err)
	}
	if file.String == "" || strings.Contains(file.String, ":memory:") {
		c.found(driver.SeverityError, "database_list", "in memory", "the database is in memory, or temporary: nothing in it outlives the process", "use a database in a file")
		return nil
	}
	c.ok("database_list", "a file")
	c.place(file.String)
	return nil
}

func (c *checker) journal(ctx context.Context) error {
	mode, err := c.pragma(ctx, subjectJournal)
	if err != nil {
		return err
	}
	switch mode {
	case "memory", "off":
		c.found(driver.SeverityError, subjectJournal, mode, "a process that dies inside a transaction leaves a damaged database", "set PRAGMA journal_mode = WAL")
	default:
		c.ok(subjectJournal, mode)
	}
	sync, err := c.pragma(ctx, subjectSynchronous)
	if err != nil {
		return err
	}
	const remedy = "set PRAGMA synchronous = FULL on every connection, in the DSN"
	switch {
	case sync == "0":
		c.found(driver.SeverityWarning, subjectSynchronous, "off", "a power cut, or a crash of the system, forgets commits that were acknowledged, and may damage the database", remedy)
	case sync == "1":
		c.found(driver.SeverityWarning, subjectSynchronous, "normal", "a power cut forgets the last commits, although they were acknowledged: work that was done may be done again", remedy)
	case mode == "delete" && sync == "2":
		c.found(driver.SeverityWarning, subjectSynchronous, "full", "with journal_mode=DELETE a power cut right after a commit may undo it: the folder is not synced", "set PRAGMA journal_mode = WAL, or PRAGMA synchronous = EXTRA on every connection")
	default:
		c.ok(subjectSynchronous, sync)
	}
	return nil
}

func (c *checker) locking(ctx context.Context) error {
	mode, err := c.pragma(ctx, "locking_mode")
	if err != nil {
		return err
	}
	if mode == "exclusive" {
		c.found(driver.SeverityError, "locking_mode", mode, "a connection that has used the database keeps all others out, of this pool too", "set PRAGMA locking_mode = NORMAL")
		return nil
	}
	c.ok("locking_mode", mode)
	return nil
}

func (c *checker) writable(ctx context.Context) error {
	const remedy = "let the process write the file and its folder, and open it without mode=ro, immutable or query_only"
	only, err := c.pragma(ctx, "query_only")
	if err != nil {
		return err
	}
	if only == "1" || only == "true" {
		c.found(driver.SeverityError, "query_only", "on", "the connection refuses to write", remedy)
		return nil
	}
	// A read-only database lets transactions begin, so something is written, and
	// taken back.
	_, err = c.conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	if err == nil {
		_, err = c.conn.ExecContext(ctx, c.set.sql("CREATE TABLE idem_can_be_written (n)"))
		if _, rerr := c.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); err == nil && rerr != nil {
			return explain(rerr)
		}
	}
	switch {
	case err == nil:
		c.ok("writing", "allowed")
	case primary(err) == codeReadonly, primary(err) == codeCantOpen:
		c.found(driver.SeverityError, "writing", "refused", "the database is read-only", remedy)
	case isBusy(err):
		c.found(driver.SeverityUnknown, "writing", "busy", "another's transaction is open, so whether this process may write was not tried", "ask again later")
	default:
		return explain(err)
	}
	return nil
}

func (c *checker) clock(context.Context) error {
	if strings.HasPrefix(c.set.sources.ticks.id, "process:") {
		c.found(driver.SeverityWarning, "clock", "of the process", "processes that write the file in turn prolong each other's leases: after a crash, a lease ends only once one process alone has written for as long", "let one process use the file, or use Linux, with /proc readable")
		return nil
	}
	c.ok("clock", "of the host")
	return nil
}

// Databases beyond this size are not read whole.
const largestQuickCheck = 256 << 20

func (c *checker) quickCheck(ctx context.Context) error {
	var bytes int64
	if err := c.conn.QueryRowContext(ctx, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").Scan(&bytes); err != nil {
		return explain(err)
	}
	if bytes > largestQuickCheck {
		c.found(driver.SeverityUnknown, "quick_check", "not run", "the database is large, and was not read whole", "run PRAGMA quick_check when there is time for it")
		return nil
	}
	result, err := c.pragma(ctx, "quick_check(1)")
	if err != nil {
		return err
	}
	if result != "ok" {
		c.found(driver.SeverityError, "quick_check", "damage", "the database is damaged", "restore it from a backup; PRAGMA integrity_check says more")
		return nil
	}
	c.ok("quick_check", "ok")
	return nil
}

// schema returns an error unless all that belongs to the store is there.
func (c *checker) schema(ctx context.Context) error {
	n, err := format(ctx, c.conn, c.set)
	if err != nil {
		return err
	}
	if n == 0 {
		return errNoSchema
	}
	if err := checkFormat(n); err != nil {
		return err
	}
	for _, o := range schemaObjects() {
		var there int
		name := c.set.sql(o.name)
		err := c.conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = ? AND lower(name) = lower(?)", o.kind, name).Scan(&there)
		if err != nil {
			return explain(err)
		}
		if there == 0 {
			return fmt.Errorf("sqlitestore: the %s %s is missing; restore the database from a backup", o.kind, name)
		}
	}
	c.ok("schema", fmt.Sprintf("version %d", n))
	return nil
}

type object struct{ kind, name string }

// schemaObjects are what the migrations make.
func schemaObjects() []object {
	var all []object
	for n := 1; n <= schemaFormat; n++ {
		text, err := migrations.ReadFile(fmt.Sprintf("migrations/%04d.sql", n))
		if err != nil {
			continue // it is embedded: the tests look for it
		}
		for _, m := range regexp.MustCompile(`(?m)^CREATE (TABLE|INDEX|TRIGGER) (\w+)`).FindAllStringSubmatch(string(text), -1) {
			all = append(all, object{strings.ToLower(m[1]), m[2]})
		}
	}
	return all
}
