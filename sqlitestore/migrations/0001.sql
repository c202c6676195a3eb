-- One row: what belongs to the store as a whole.
CREATE TABLE idem_meta (
	id        INTEGER PRIMARY KEY CHECK (id = 1),
	format    INTEGER NOT NULL, -- the version of this schema
	clock     TEXT    NOT NULL, -- whose ticks the store's time is counted in
	base      INTEGER NOT NULL, -- the store's time when that clock was at zero
	time      INTEGER NOT NULL, -- the store's time at the last write,
	wall      INTEGER NOT NULL, -- and the wall clock's
	writes    INTEGER NOT NULL DEFAULT 0, -- counts transactions, for those who look whether anything has changed
	in_flight INTEGER NOT NULL DEFAULT 0,
	unknown   INTEGER NOT NULL DEFAULT 0,
	filed     INTEGER NOT NULL DEFAULT 0, -- the rows up to this number are filed
	completed INTEGER NOT NULL DEFAULT 0, -- of the rows that are filed, as is forgotten
	forgotten INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A row for each key that something is known of. Rows are in the order in which
-- they were made, so that what is written again soon is close together; the
-- hashes that keys are would scatter them. A new row is in no index that sweeping
-- needs, and in no count of what has ended: the sweeper files many at a time, which
-- takes far less writing than each transaction would.
CREATE TABLE idem_records (
	n           INTEGER PRIMARY KEY,
	filed       INTEGER NOT NULL,
	key         BLOB    NOT NULL UNIQUE,
	version     INTEGER NOT NULL,
	kind        INTEGER NOT NULL, -- 1 in flight, 2 lapsed, 3 abandoned, 4 completed, 5 forgotten, 6 and 7 released
	flags       INTEGER NOT NULL,
	attempt     INTEGER NOT NULL,
	token       INTEGER NOT NULL,
	since       INTEGER NOT NULL,
	due         INTEGER NOT NULL,
	lease       INTEGER NOT NULL,
	tombstone   INTEGER NOT NULL,
	size        INTEGER NOT NULL, -- the bytes of meta and body together
	nonce       BLOB    NOT NULL,
	fingerprint BLOB    NOT NULL,
	scope       BLOB    NOT NULL,
	id          BLOB    NOT NULL,
	note        BLOB    NOT NULL,
	-- Last, so that what is before them is read without them. A tombstone is moved
	-- to the end of the table, and leaves no hole of the size of its result.
	meta        BLOB    NOT NULL,
	body        BLOB    NOT NULL
) STRICT;

CREATE INDEX idem_open ON idem_records (kind, due, since) WHERE kind <= 3;
CREATE INDEX idem_kept ON idem_records (due) WHERE filed = 1 AND kind > 3;

CREATE TRIGGER idem_inserted AFTER INSERT ON idem_records WHEN NEW.kind <= 3 OR NEW.filed = 1 BEGIN
	UPDATE idem_meta SET
		in_flight = in_flight + (NEW.kind = 1),
		unknown   = unknown   + (NEW.kind IN (2, 3)),
		completed = completed + (NEW.kind = 4 AND NEW.filed = 1),
		forgotten = forgotten + (NEW.kind = 5 AND NEW.filed = 1)
	WHERE id = 1;
END;

CREATE TRIGGER idem_updated AFTER UPDATE OF kind, filed ON idem_records WHEN OLD.kind <> NEW.kind OR OLD.filed <> NEW.filed BEGIN
	UPDATE idem_meta SET
		in_flight = in_flight + (NEW.kind = 1) - (OLD.kind = 1),
		unknown   = unknown   + (NEW.kind IN (2, 3)) - (OLD.kind IN (2, 3)),
		completed = completed + (NEW.kind = 4 AND NEW.filed = 1) - (OLD.kind = 4 AND OLD.filed = 1),
		forgotten = forgotten + (NEW.kind = 5 AND NEW.filed = 1) - (OLD.kind = 5 AND OLD.filed = 1)
	WHERE id = 1;
END;

-- The number of a row that is gone is given again when it was the last.
CREATE TRIGGER idem_deleted AFTER DELETE ON idem_records BEGIN
	UPDATE idem_meta SET
		filed     = min(filed, coalesce((SELECT max(n) FROM idem_records), 0)),
		in_flight = in_flight - (OLD.kind = 1),
		unknown   = unknown   - (OLD.kind IN (2, 3)),
		completed = completed - (OLD.kind = 4 AND OLD.filed = 1),
		forgotten = forgotten - (OLD.kind = 5 AND OLD.filed = 1)
	WHERE id = 1;
END;
