package mysqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/idem-go/idem/driver"
)

// Check finds out whether a store can be used on the database of db, and what of
// the server's settings keeps the promise: that what was acknowledged is there
// after a crash. It changes nothing. An error means that the server did not
// answer; whatever is wrong otherwise is among the findings.
func Check(ctx context.Context, db *sql.DB, o *Options) ([]driver.Finding, error) {
	opts, err := o.filled()
	if err != nil {
		return nil, err
	}
	srv, err := readServer(ctx, db, opts.Prefix)
	if err != nil {
		return nil, err
	}
	asked := 0
	if o != nil {
		asked = o.MaxResult
	}
	findings := srv.findings(asked)
	if srv.schema == 0 || srv.readOnly() != "" {
		return findings, nil
	}
	denied, err := privilege(ctx, db, newTables(opts.Prefix, srv.mariadb))
	if err != nil {
		return nil, err
	}
	return append(findings, denied), nil
}

// privilege tries statements that change nothing.
func privilege(ctx context.Context, db *sql.DB, t *tables) (driver.Finding, error) {
	for _, try := range []string{
		`INSERT INTO ` + t.records + ` SELECT * FROM ` + t.records + ` WHERE 1 = 0`,
		`UPDATE ` + t.records + ` SET due = due WHERE 1 = 0`,
		`DELETE FROM ` + t.records + ` WHERE 1 = 0`,
		`DELETE FROM ` + t.attempts + ` WHERE 1 = 0`,
	} {
		_, err := db.ExecContext(ctx, try)
		switch n := numberOf(err); {
		case err == nil:
		case n == errTableDenied || n == errColumnDenied:
			verb, _, _ := strings.Cut(try, " ")
			return driver.Finding{
				Severity: driver.SeverityError, Subject: "privileges", Found: verb + " is denied",
				Means: "The store cannot write its tables.", Remedy: "GRANT SELECT, INSERT, UPDATE, DELETE on them to its user.",
			}, nil
		default:
			return driver.Finding{}, unanswered(ctx, err)
		}
	}
	return driver.Finding{Subject: "privileges", Found: "SELECT, INSERT, UPDATE, DELETE"}, nil
}

const (
	errTableDenied  = 1142
	errColumnDenied = 1143
)

// findings are what the server's settings mean. Asked is the largest result that
// was asked for, 0 for the default.
func (srv *server) findings(asked int) []driver.Finding {
	var all []driver.Finding
	add := func(severity driver.Severity, subject, found, means, remedy string) {
		if severity == driver.SeverityOK {
			means, remedy = "", ""
		}
		all = append(all, driver.Finding{Severity: severity, Subject: subject, Found: found, Means: means, Remedy: remedy})
	}
	unless := func(ok bool, otherwise driver.Severity) driver.Severity {
		if ok {
			return driver.SeverityOK
		}
		return otherwise
	}
	warn, fail := driver.SeverityWarning, driver.SeverityError

	add(unless(srv.supported(), fail), "version", srv.version,
		"The statements need MySQL 8.0 or MariaDB 10.6, or later.", "Upgrade the server.")
	schema := fmt.Sprint("version ", srv.schema)
	if srv.schema == 0 {
		schema = "missing"
	}
	add(unless(srv.schemaRefusal() == nil, fail), "schema", schema,
		fmt.Sprintf("This program needs tables of version %d.", schemaVersion), "Run idem store migrate; for tables of a newer version use a newer program.")
	for _, table := range []string{"records", "attempts"} {
		if engine := srv.engines[table]; srv.schema > 0 {
			add(unless(strings.EqualFold(engine, "InnoDB"), fail), "engine of "+table, or(engine, "no such table"),
				"Only InnoDB keeps what was committed and takes a row at a time.", "ALTER TABLE it to ENGINE=InnoDB; where it is missing, run idem store migrate.")
		}
	}
	add(unless(srv.readOnly() == "", fail), "read_only", or(srv.readOnly(), "off"),
		"The server takes no writes.", "Connect to the one that does.")
	add(unless(srv.on("autocommit"), fail), "autocommit", srv.vars["autocommit"],
		"No claim would ever be committed.", "Turn it on for these connections.")
	add(unless(srv.isolation() != "READ-UNCOMMITTED", fail), "transaction_isolation", srv.isolation(),
		"What is not committed would be read, and answered with.", "Set it to anything but READ-UNCOMMITTED.")
	add(unless(srv.vars["innodb_flush_log_at_trx_commit"] == "1", warn), "innodb_flush_log_at_trx_commit", srv.vars["innodb_flush_log_at_trx_commit"],
		"A power cut, or a crash of the machine, takes back about the last second of what was acknowledged: work may run twice.", "Set it to 1.")
	if srv.on("log_bin") {
		add(unless(srv.vars["sync_binlog"] == "1", warn), "sync_binlog", srv.vars["sync_binlog"],
			"A power cut may take back what was acknowledged: what the binary log has lost is rolled back.", "Set it to 1.")
		add(unless(srv.vars["binlog_format"] != "STATEMENT", warn), "binlog_format", srv.vars["binlog_format"],
			"Replicas run the statements again, and what SKIP LOCKED left out here is theirs to decide.", "Set it to ROW.")
		semi := srv.on("rpl_semi_sync_master_enabled") || srv.on("rpl_semi_sync_source_enabled")
		add(unless(semi, driver.SeverityUnknown), "replication", or(map[bool]string{true: "semi-synchronous"}[semi], "asynchronous, if there is any"),
			"A failover to a replica forgets what it had not received yet, and work may run twice. Whether there are replicas cannot be seen from here.",
			"Turn on semi-synchronous replication where a replica may take over.")
	}
	if v, ok := srv.vars["innodb_doublewrite"]; ok {
		add(unless(srv.on("innodb_doublewrite") && !strings.EqualFold(v, "DETECT_ONLY"), warn), "innodb_doublewrite", v,
			"A page that a power cut tears in the middle is lost, unless the file system writes pages whole.", "Turn it on.")
	}
	if strings.EqualFold(srv.vars["innodb_flush_method"], "nosync") {
		add(warn, "innodb_flush_method", srv.vars["innodb_flush_method"],
			"Nothing is flushed to the disk: a power cut takes back what was acknowledged.", "Set it to O_DIRECT or fsync.")
	}
	if srv.on("wsrep_on") {
		add(warn, "wsrep_on", srv.vars["wsrep_on"],
			"Each node of a Galera cluster has a clock of its own, by which leases would be judged, and writes of one key at two nodes conflict at the commit.",
			"Send all of idem's connections to one node, and keep the nodes' clocks together.")
	}
	if strings.Contains(srv.version, "TiDB") {
		add(driver.SeverityUnknown, "server", srv.version, "The store has not been tested on TiDB.", "Use MySQL or MariaDB.")
	}
	largest := srv.largestResult()
	add(unless(asked <= largest, warn), "max_allowed_packet", fmt.Sprintf("results up to %d bytes", largest),
		fmt.Sprintf("Results of up to %d bytes were asked for; larger ones than the server takes are completed without their result.", asked),
		"Raise max_allowed_packet, and the redo log to more than ten times as much, or set a smaller MaxResult.")
	return all
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
