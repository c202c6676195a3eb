package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// server is what was read from the server and of the tables.
type server struct {
	version string
	mariadb bool
	// vars are the variables of the server, as this connection has them; one that
	// the server does not have is missing.
	vars map[string]string
	// database is the one that the connection uses.
	database string
	// schema and compatible are the version of the tables, 0 for none, and the
	// oldest version of them that a program must know.
	schema, compatible int
	// engines are those of the tables, by their names without the prefix.
	engines map[string]string
}

// variables are read at the start.
const variables = `'autocommit','transaction_isolation','tx_isolation','read_only','super_read_only','innodb_read_only','max_allowed_packet',` +
	`'innodb_flush_log_at_trx_commit','log_bin','sync_binlog','binlog_format','innodb_doublewrite','wsrep_on','fsync',` +
	`'innodb_log_file_size','innodb_log_files_in_group','innodb_redo_log_capacity','innodb_lock_wait_timeout',` +
	`'innodb_snapshot_isolation','rpl_semi_sync_master_enabled','rpl_semi_sync_source_enabled','innodb_flush_method'`

func readServer(ctx context.Context, db *sql.DB, prefix string) (*server, error) {
	srv := &server{vars: map[string]string{}, engines: map[string]string{}}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, unanswered(ctx, err)
	}
	defer func() { _ = conn.Close() }()
	var database sql.NullString
	if err := conn.QueryRowContext(ctx, `SELECT VERSION(), DATABASE()`).Scan(&srv.version, &database); err != nil {
		return nil, unanswered(ctx, err)
	}
	srv.database = database.String
	srv.mariadb = strings.Contains(strings.ToLower(srv.version), "mariadb")
	if err := readPairs(ctx, conn, srv.vars, `SHOW VARIABLES WHERE Variable_name IN (`+variables+`)`); err != nil {
		return nil, unanswered(ctx, err)
	}
	err = conn.QueryRowContext(ctx, "SELECT version, compatible FROM `"+prefix+"schema`").Scan(&srv.schema, &srv.compatible)
	if err != nil && !errors.Is(err, sql.ErrNoRows) && numberOf(err) != errNoTable && database.Valid {
		return nil, unanswered(ctx, err)
	}
	tables := map[string]string{}
	list := "SELECT table_name, COALESCE(engine, '') FROM information_schema.tables WHERE table_schema = DATABASE()" +
		" AND table_name IN ('" + prefix + "records', '" + prefix + "attempts')"
	if err := readPairs(ctx, conn, tables, list); err != nil {
		return nil, unanswered(ctx, err)
	}
	for name, engine := range tables {
		srv.engines[strings.TrimPrefix(name, prefix)] = engine
	}
	return srv, nil
}

func readPairs(ctx context.Context, conn *sql.Conn, into map[string]string, query string) error {
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err
		}
		into[name] = value
	}
	return rows.Err()
}

// unanswered is for what fails before anything is known of the server.
func unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return explained(err)
}

// number is a variable's value; less than 0 where the server does not have it.
func (srv *server) number(name string) int64 {
	n, err := strconv.ParseInt(srv.vars[name], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// on says that a variable is set to anything but off.
func (srv *server) on(name string) bool {
	switch strings.ToUpper(srv.vars[name]) {
	case "", "OFF", "0":
		return false
	}
	return true
}

// isolation is that of transactions which do not ask for another.
func (srv *server) isolation() string {
	if v := srv.vars["transaction_isolation"]; v != "" {
		return v
	}
	return srv.vars["tx_isolation"]
}

// supported says that the server's version has what the statements need.
func (srv *server) supported() bool {
	var major, minor int
	if n, _ := fmt.Sscanf(srv.version, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	if srv.mariadb {
		return major > 10 || major == 10 && minor >= 6
	}
	return major >= 8
}

// readOnly names the variable that makes the server refuse writes, or is empty.
func (srv *server) readOnly() string {
	for _, name := range []string{"innodb_read_only", "super_read_only", "read_only"} {
		if srv.on(name) {
			return name
		}
	}
	return ""
}

func errReadOnly(variable string) error {
	return fmt.Errorf("mysqlstore: the server is read-only (%s is on); connect to the one that takes writes", variable)
}

// isReadOnly is readOnly, asked of the server now.
func isReadOnly(ctx context.Context, db *sql.DB) (string, error) {
	srv := &server{vars: map[string]string{}}
	conn, err := db.Conn(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	err = readPairs(ctx, conn, srv.vars, `SHOW VARIABLES WHERE Variable_name IN ('innodb_read_only', 'super_read_only', 'read_only')`)
	return srv.readOnly(), err
}

// refusal is why a store cannot be used there, nil if it can.
func (srv *server) refusal() error {
	switch {
	case !srv.supported():
		return fmt.Errorf("mysqlstore: the server's version is %s; MySQL 8.0 or MariaDB 10.6 is needed, or later", srv.version)
	case srv.database == "":
		return errors.New("mysqlstore: the connection has no database; name one in the DSN")
	case !srv.on("autocommit"):
		return errors.New("mysqlstore: autocommit is off, so that no claim would ever be committed; turn it on for these connections")
	case srv.isolation() == "READ-UNCOMMITTED":
		return errors.New("mysqlstore: the connections read what is not committed, and would answer with it; set transaction_isolation to anything but READ-UNCOMMITTED")
	}
	if err := srv.schemaRefusal(); err != nil {
		return err
	}
	for _, table := range []string{"records", "attempts"} {
		switch engine := srv.engines[table]; {
		case engine == "":
			return fmt.Errorf("mysqlstore: the table of the %s is missing; make it with idem store migrate", table)
		case !strings.EqualFold(engine, "InnoDB"):
			return fmt.Errorf("mysqlstore: the table of the %s is kept by the engine %s, which has no transactions; ALTER TABLE it to InnoDB", table, engine)
		}
	}
	if name := srv.readOnly(); name != "" {
		return errReadOnly(name)
	}
	return nil
}

func (srv *server) schemaRefusal() error {
	switch {
	case srv.schema == 0:
		return errors.New("mysqlstore: the tables are missing; make them with idem store migrate")
	case srv.schema < schemaVersion:
		return fmt.Errorf("mysqlstore: the tables have version %d, this program needs %d; bring them up to date with idem store migrate", srv.schema, schemaVersion)
	case srv.compatible > schemaVersion:
		return fmt.Errorf("mysqlstore: the tables have version %d, which programs that know version %d cannot use; use a newer program", srv.schema, schemaVersion)
	}
	return nil
}

const (
	// statementRoom is what a statement holds besides the result: names and text.
	statementRoom = 64 << 10
	// largestPacket is what the driver of package sql reads at most by default.
	largestPacket = 64 << 20
)

// largestResult is what the server takes in one statement, and in one
// transaction, whose large values may fill a tenth of the redo log.
func (srv *server) largestResult() int {
	most := int64(largestPacket)
	if n := srv.number("max_allowed_packet"); n > 0 {
		most = min(most, n)
	}
	redo := srv.number("innodb_redo_log_capacity")
	if redo <= 0 {
		redo = srv.number("innodb_log_file_size") * max(1, srv.number("innodb_log_files_in_group"))
	}
	if redo > 0 {
		most = min(most, redo/10)
	}
	return int(max(1, most-statementRoom))
}
