-- What is known of each key. Times are microseconds since 1970 by the server's
-- clock, durations are microseconds: so that the longest there are can be added.
-- The columns are in the order that takes the fewest bytes.
CREATE TABLE {records} (
	token     bigint   NOT NULL,
	since     bigint   NOT NULL,
	due       bigint   NOT NULL,
	tombstone bigint   NOT NULL,
	attempt   integer  NOT NULL,
	format    smallint NOT NULL,
	kind      smallint NOT NULL,
	rule      smallint NOT NULL DEFAULT 0,
	answered  boolean  NOT NULL DEFAULT false,
	dropped   boolean  NOT NULL DEFAULT false,
	late      boolean  NOT NULL DEFAULT false,
	watched   boolean  NOT NULL DEFAULT false,
	key       bytea    NOT NULL PRIMARY KEY,
	nonce     bytea,
	sum       bytea,
	scope     bytea,
	id        bytea,
	note      bytea,
	meta      bytea,
	body      bytea
){partitioned};

-- What is kept is kept as it is: to compress at each completion costs more time
-- than the rest of it.
ALTER TABLE {records} ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN meta SET STORAGE EXTERNAL;

-- Counts, lists and sweeps go by what a record is and when that ends.
CREATE INDEX {due} ON {records} (kind, due);

-- The tokens of claims. CACHE 1, the default, is part of the promise: sessions
-- that take numbers ahead would grant them out of order.
CREATE SEQUENCE {tokens} AS bigint CACHE 1;

-- How often work was begun whose transactions were rolled back.
CREATE TABLE {attempts} (
	due      bigint  NOT NULL,
	attempts integer NOT NULL,
	key      bytea   NOT NULL PRIMARY KEY
);
CREATE INDEX {attemptsdue} ON {attempts} (due);
