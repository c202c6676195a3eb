package pgstore

import (
	"fmt"
	"strconv"
	"strings"
)

// The server's clock, in microseconds since 1970: as it is at that moment, and
// as it was when the statement came. A condition over an index takes the second,
// which is the same for every row; so does whoever judges rows by the statement's
// snapshot, which was taken after it.
const (
	clock   = "(date_part('epoch', clock_timestamp()) * 1000000)::bigint"
	started = "(date_part('epoch', statement_timestamp()) * 1000000)::bigint"
)

// A claim's statement must not take longer than its rows are kept once they
// are over: see dropText.
const promptly = "1 / (clock_timestamp() - statement_timestamp() < interval '30 seconds')::int"

// texts are the statements of a store.
type texts struct {
	claim, claims, claimTx, claimQuick            string
	complete, completes, completeQuick            string
	completeTx, completeTxCounted, completeTheirs string
	renew, release, abandon, lookup, look, mark   string
	resolve, lapse, forget, drop, dropAttempts    string
	room, stats, sample, bytes                    string
	ping, version, attempt                        string

	list func(seg segment, scoped bool) string
}

// gone is the condition that nothing is known any more of what a row is about.
func gone(r, now string) string {
	return fmt.Sprintf("(%[1]s.due + CASE WHEN %[1]s.kind IN (%[2]d, %[3]d) THEN %[1]s.tombstone ELSE 0 END <= %[4]s)", r, inFlight, completed, now)
}

// ours is the condition that a row is the claim of the nonce, asked for again.
func ours(r, nonce, now string) string {
	return fmt.Sprintf("(%[1]s.kind IN (%[2]d, %[3]d) AND %[1]s.nonce = %[4]s AND NOT %[5]s)", r, inFlight, lapsed, nonce, gone(r, now))
}

// free is the condition that the claim a is granted over the row r.
func free(r, a, now string) string {
	return strings.NewReplacer(
		"{r}", r, "{now}", now, "{gone}", gone(r, now), "{ours}", ours(r, a+".new_nonce", now), "{again}", "true",
		"{room}", a+".room", "{nonce}", a+".new_nonce", "{waited}", a+".waited", "{retry}", a+".retry", "{rule}", a+".new_rule", "{sum}", a+".new_sum",
	).Replace(freeText)
}

// freeQuick is free for the one claim of claimQuickText, but not for a claim
// that is asked for again.
func freeQuick(r, now string) string {
	return strings.NewReplacer(
		"{r}", r, "{now}", now, "{gone}", gone(r, now), "{ours}", ours(r, "$2::bytea", now), "{again}", "false",
		"{room}", "$7::boolean", "{nonce}", "$2::bytea", "{waited}", "$6::bigint", "{retry}", "$5::boolean", "{rule}", "$8::smallint", "{sum}", "$9::bytea",
	).Replace(freeText)
}

const freeText = `({r}.format = {format} AND {r}.kind BETWEEN {inFlight} AND {releasedByResolve} AND CASE
		WHEN {gone} OR {r}.kind = {releasedByResolve} THEN {room}
		WHEN {r}.kind = {releasedByOwner} THEN {room} AND {r}.nonce <> {nonce}
			AND NOT ({r}.answered AND {waited} <> 0 AND {waited} <= {r}.token)
		WHEN {ours} THEN {again}
		WHEN {r}.kind IN ({lapsed}, {abandoned}) OR {r}.kind = {inFlight} AND {r}.due <= {now}
			THEN {retry} AND {r}.rule = {rule} AND {r}.sum IS NOT DISTINCT FROM {sum}
		ELSE false END)`

func number(k kind) string { return strconv.Itoa(int(k)) }

// param is a value that a statement takes: alone, or as an array with one for
// each call of a group.
type param struct{ name, typ string }

// asked is the first part of a statement: what the calls ask for, as rows, and
// how long the statement may wait for a row that another transaction holds. The
// setting ends with the transaction, which mostly is the statement. All other
// parts of the statement take their rows from this one, so it is set before
// they can wait. The last parameter is the setting, in milliseconds.
func asked(params []param, group bool) string {
	last := "$" + strconv.Itoa(len(params)+1) + "::text"
	var b strings.Builder
	if !group {
		b.WriteString("SELECT 1::bigint AS i")
		for i, p := range params {
			fmt.Fprintf(&b, ", $%d::%s AS %s", i+1, p.typ, p.name)
		}
		fmt.Fprintf(&b, ", set_config('lock_timeout', %s, true)", last)
		return b.String()
	}
	b.WriteString("SELECT a.*, CASE WHEN i = 1 THEN set_config('lock_timeout', " + last + ", true) END FROM unnest(")
	names := make([]string, len(params))
	for i, p := range params {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d::%s[]", i+1, p.typ)
		names[i] = p.name
	}
	b.WriteString(") WITH ORDINALITY AS a(" + strings.Join(names, ", ") + ", i)")
	return b.String()
}

// askedTx is asked for one call in a transaction that goes on afterwards: the
// setting is put back with the statement's answer, so the one before is kept.
func askedTx(params []param) string {
	inner := "SELECT current_setting('lock_timeout') AS before, 1::bigint AS i"
	for i, p := range params {
		inner += fmt.Sprintf(", $%d::%s AS %s", i+1, p.typ, p.name)
	}
	// The setting is changed by way of what it was, so that it is read first.
	return fmt.Sprintf("SELECT *, set_config('lock_timeout', CASE WHEN before IS NOT NULL THEN $%d::text END, true) FROM (%s OFFSET 0) s", len(params)+1, inner)
}

func claimParams() []param {
	return []param{
		{"new_key", "bytea"}, {"new_nonce", "bytea"}, {"lease", "bigint"}, {"new_tombstone", "bigint"},
		{"retry", "boolean"}, {"waited", "bigint"}, {"room", "boolean"},
		{"new_rule", "smallint"}, {"new_sum", "bytea"}, {"new_scope", "bytea"}, {"new_id", "bytea"},
	}
}

// claimText grants claims, and reads what stands in the way of the others, as
// one statement. What is granted comes back as it was written. What is refused
// comes back as it was when the statement came. A claim that comes back as
// neither lost a race to another: it has to be asked again, and not guessed.
//
// Rows are read before they are written, so that a claim that is refused, a
// replay above all, takes no lock and writes nothing. The written part looks
// again at what it has locked. It goes by the order of the rows asked for, so
// that groups never wait for each other in a circle.
//
// The token of a row that is inserted was taken before the row could be. That it
// is larger than any granted before depends on rows staying long enough: see
// dropText.
const claimText = `WITH asked AS MATERIALIZED ({asked}),
old AS MATERIALIZED (
	SELECT l.*, {free l a started} AS free
	FROM asked a CROSS JOIN LATERAL (SELECT {columns} FROM {records} WHERE key = a.new_key OFFSET 0) l
),
granted AS (
	INSERT INTO {records} AS r (key, format, kind, token, attempt, since, due, tombstone, rule, nonce, sum, scope, id)
	SELECT new_key, {format}, {inFlight}, nextval({tokens}), 1, n, n + lease, new_tombstone, new_rule, new_nonce, new_sum, new_scope, new_id
	FROM (
		SELECT q.*, {clock} AS n FROM (
			SELECT a.* FROM asked a LEFT JOIN old o ON o.key = a.new_key
			WHERE CASE WHEN o.key IS NULL THEN a.room ELSE o.free END
			ORDER BY a.i
		) q OFFSET 0
	) s
	ON CONFLICT (key) DO UPDATE SET
		(kind, token, attempt, since, due, tombstone, rule, answered, dropped, late, watched, nonce, sum, scope, id, meta, body, note) = (
			SELECT {inFlight},
				CASE WHEN s.ours THEN r.token ELSE greatest(nextval({tokens}), r.token + 1) END,
				CASE WHEN s.ours THEN r.attempt WHEN s.gone THEN 1 ELSE r.attempt + 1 END,
				CASE WHEN s.ours THEN r.since ELSE s.n END,
				s.n + excluded.due - excluded.since,
				CASE WHEN s.ours THEN r.tombstone ELSE excluded.tombstone END,
				CASE WHEN s.ours THEN r.rule ELSE excluded.rule END,
				false, false, false,
				s.ours AND r.watched,
				excluded.nonce,
				CASE WHEN s.ours THEN r.sum ELSE excluded.sum END,
				CASE WHEN s.ours THEN r.scope ELSE excluded.scope END,
				CASE WHEN s.ours THEN r.id ELSE excluded.id END,
				NULL::bytea, NULL::bytea,
				CASE WHEN s.ours THEN r.note END
			FROM (SELECT c.n, {gone r c.n} AS gone, {ours r excluded.nonce c.n} AS ours FROM (SELECT {clock} AS n OFFSET 0) c OFFSET 0) s
		)
		WHERE EXISTS (SELECT FROM asked a WHERE a.new_key = r.key AND {free r a clock})
	RETURNING {columns}
)
SELECT {columns}, {clock} AS now, true AS granted, {promptly} AS prompt{after} FROM granted
UNION ALL
SELECT {columns}, {started}, false, 1{after} FROM old WHERE NOT free`

// claimQuickText is claimText for one claim where there is room for it, without
// what is rarely needed: it does not give a claim again to its own nonce, and
// does not bound the time that it waits for somebody's transaction. Where that
// leaves a claim without an answer, claimText gives it.
//
// What stands in the way comes as two arrays, since each column of an answer has
// its price and a claim that is granted has no use for them.
const claimQuickText = `WITH granted AS (
	INSERT INTO {records} AS r (key, format, kind, token, attempt, since, due, tombstone, rule, nonce, sum, scope, id)
	SELECT $1::bytea, {format}, {inFlight}, nextval({tokens}), 1, {clock}, {clock} + $3::bigint, $4::bigint, $8::smallint, $2::bytea, $9::bytea, $10::bytea, $11::bytea
	WHERE NOT EXISTS (SELECT FROM {records} WHERE key = $1::bytea AND due > {started} AND (kind = {completed} OR kind = {inFlight} AND nonce <> $2::bytea))
	ON CONFLICT (key) DO UPDATE SET
		kind = {inFlight}, token = greatest(nextval({tokens}), r.token + 1), attempt = CASE WHEN {gone r clock} THEN 1 ELSE r.attempt + 1 END,
		since = {clock}, due = {clock} + $3::bigint, tombstone = excluded.tombstone, rule = excluded.rule,
		answered = false, dropped = false, late = false, watched = false,
		nonce = excluded.nonce, sum = excluded.sum, scope = excluded.scope, id = excluded.id, meta = NULL, body = NULL, note = NULL
		WHERE {free r $ clock}
	RETURNING token, attempt, since, due
)
SELECT {promptly}, token, attempt, since, due, NULL::bigint[], NULL::bytea[] FROM granted
UNION ALL
SELECT 1, token, attempt, since, due,
	ARRAY[format, kind, tombstone, rule, answered::int, dropped::int, late::int, {started}],
	ARRAY[nonce, sum, scope, id, meta, body, note]
FROM {records} WHERE key = $1::bytea AND NOT EXISTS (SELECT FROM granted)`

func completeParams() []param {
	return []param{
		{"of_key", "bytea"}, {"of_token", "bigint"}, {"retention", "bigint"}, {"new_tombstone", "bigint"},
		{"new_dropped", "boolean"}, {"new_meta", "bytea"}, {"new_body", "bytea"},
		{"new_rule", "smallint"}, {"new_sum", "bytea"}, {"new_scope", "bytea"}, {"new_id", "bytea"},
	}
}

// held is the part of a statement that holds the rows of claims by their
// tokens, in the order asked for, and then looks at the clock: what is decided
// by it is decided once nobody else can change the row.
const held = `held AS MATERIALIZED (
	SELECT a.*, l.*, {clock} AS n
	FROM asked a CROSS JOIN LATERAL (SELECT {columns} FROM {records} WHERE key = a.of_key AND token = a.of_token AND format = {format} FOR UPDATE) l
)`

// completeText completes claims. The rows are there and held, so that nothing
// is ever inserted: a conflict is the one way to update rows by the index in the
// order of those asked for that no planner can see otherwise.
const completeText = `WITH asked AS MATERIALIZED ({asked}),
` + held + `,
done AS (
	INSERT INTO {records} AS r (key, format, kind, token, attempt, since, due, tombstone, rule, dropped, late, sum, scope, id, meta, body)
	SELECT key, {format}, {completed}, token, attempt, n, n + retention, new_tombstone,
		CASE WHEN kind = {releasedByResolve} THEN new_rule ELSE rule END, new_dropped, kind <> {inFlight} OR due <= n,
		CASE WHEN kind = {releasedByResolve} THEN new_sum ELSE sum END,
		CASE WHEN kind = {releasedByResolve} THEN new_scope ELSE scope END,
		CASE WHEN kind = {releasedByResolve} THEN new_id ELSE id END, new_meta, new_body
	FROM held h WHERE kind IN ({inFlight}, {lapsed}, {abandoned}, {releasedByResolve}) AND NOT {gone h n}
	ON CONFLICT (key) DO UPDATE SET
		kind = excluded.kind, since = excluded.since, due = excluded.due, tombstone = excluded.tombstone,
		rule = excluded.rule, answered = false, dropped = excluded.dropped, late = excluded.late,
		sum = excluded.sum, scope = excluded.scope, id = excluded.id, meta = excluded.meta, body = excluded.body
	RETURNING r.key, r.token, r.late, r.watched
)
`

// completeQuickText is completeText for one claim, without the row being held
// first: what it says of the clock was so when the row was found. So it changes
// nothing when it had to wait for the row.
const completeQuickText = `UPDATE {records} r SET
	kind = {completed}, since = {clock}, due = {clock} + $3::bigint, tombstone = $4::bigint, late = kind <> {inFlight} OR due <= {clock},
	answered = false, dropped = $5::boolean, meta = $6::bytea, body = $7::bytea,
	rule = CASE WHEN kind = {releasedByResolve} THEN $8::smallint ELSE rule END,
	sum = CASE WHEN kind = {releasedByResolve} THEN $9::bytea ELSE sum END,
	scope = CASE WHEN kind = {releasedByResolve} THEN $10::bytea ELSE scope END,
	id = CASE WHEN kind = {releasedByResolve} THEN $11::bytea ELSE id END
WHERE key = $1::bytea AND token = $2::bigint AND format = {format}
	AND kind IN ({inFlight}, {lapsed}, {abandoned}, {releasedByResolve}) AND NOT {gone r clock}
RETURNING late, ` + notify + `, 1 / (clock_timestamp() - statement_timestamp() < interval '100 milliseconds')::int`

// completeTxText completes the claim of a transaction in it. Its row is the
// transaction's own, so nobody has to be waited for. It fails unless there is one:
// the commit that comes behind it must not succeed then. Where attempts are
// counted outside of the transaction, the count goes into the record.
const completeTxText = `WITH {first}done AS (
	UPDATE {records} r SET
		kind = {completed}, since = {clock}, due = {clock} + $3::bigint, tombstone = $4::bigint, dropped = $5::boolean, meta = $6::bytea, body = $7::bytea{also}
	WHERE key = $1::bytea AND token = $2::bigint AND kind = {inFlight}
	RETURNING 1
)
SELECT 1 / count(*)::int FROM done`

// notify tells those who wait that the claim of the row r has ended. The
// server takes a lock of all its databases for whoever notifies, until the
// commit is done: so only a row that somebody said to wait for is worth it.
const notify = "CASE WHEN watched THEN pg_notify({channel}, encode(key, 'hex') || ' ' || token)::text END"

// ownText begins the write of an owner.
const ownText = `WITH asked AS MATERIALIZED ({asked}),
` + held + `,
done AS (
	UPDATE {records} r SET {set} FROM held h WHERE r.key = h.key AND {condition} AND NOT {gone h h.n}
	RETURNING r.key, r.token, r.watched
)
SELECT ` + notify + ` FROM done`

func refParams(more ...param) []param {
	return append([]param{{"of_key", "bytea"}, {"of_token", "bigint"}}, more...)
}

// stripped is what a tombstone and a released key do not need.
const stripped = `rule = 0, sum = NULL, meta = NULL, body = NULL, dropped = false,
	scope = CASE WHEN r.note IS NOT NULL THEN r.scope END, id = CASE WHEN r.note IS NOT NULL THEN r.id END`

// newTexts writes the statements for tables of these names.
func newTexts(n names, graceMicroseconds int64) *texts {
	fill := func(text string, more ...string) string {
		pairs := append(more,
			"{columns}", columns, "{records}", n.records, "{attempts}", n.attempts, "{migration}", n.migration,
			"{tokens}", literal(n.tokens)+"::regclass", "{channel}", literal(n.channel),
			"{clock}", clock, "{started}", started, "{promptly}", promptly, "{format}", strconv.Itoa(format),
			"{inFlight}", number(inFlight), "{lapsed}", number(lapsed), "{abandoned}", number(abandoned),
			"{completed}", number(completed), "{forgotten}", number(forgotten),
			"{releasedByOwner}", number(releasedByOwner), "{releasedByResolve}", number(releasedByResolve),
			"{free l a started}", free("l", "a", started), "{free r a clock}", free("r", "a", clock),
			"{gone r c.n}", gone("r", "c.n"), "{ours r excluded.nonce c.n}", ours("r", "excluded.nonce", "c.n"),
			"{gone r clock}", gone("r", clock), "{free r $ clock}", freeQuick("r", clock),
			"{gone h n}", gone("h", "h.n"), "{gone h h.n}", gone("h", "h.n"),
			"{grace}", strconv.FormatInt(graceMicroseconds, 10),
		)
		// What is filled in is made of such parts itself.
		r := strings.NewReplacer(pairs...)
		return r.Replace(r.Replace(r.Replace(text)))
	}
	own := func(params []param, set, condition string) string {
		return fill(ownText, "{asked}", asked(params, false), "{set}", set, "{condition}", condition)
	}
	t := &texts{
		claim:   fill(claimText, "{asked}", asked(claimParams(), false), "{after}", ""),
		claims:  fill(claimText, "{asked}", asked(claimParams(), true), "{after}", ""),
		claimTx: fill(claimText, "{asked}", askedTx(claimParams()), "{after}", ", set_config('lock_timeout', (SELECT before FROM asked), true)"),

		claimQuick: fill(claimQuickText), completeQuick: fill(completeQuickText),

		complete:  fill(completeText+"SELECT key, late, "+notify+" FROM done", "{asked}", asked(completeParams(), false)),
		completes: fill(completeText+"SELECT key, late, "+notify+" FROM done", "{asked}", asked(completeParams(), true)),
		completeTheirs: fill(completeText+"SELECT key, late, "+notify+", set_config('lock_timeout', (SELECT before FROM asked), true) FROM done",
			"{asked}", askedTx(completeParams())),
		completeTx:        fill(completeTxText, "{first}", "", "{also}", ""),
		completeTxCounted: fill(completeTxText, "{first}", "ended AS (DELETE FROM {attempts} WHERE key = $1::bytea), ", "{also}", ", attempt = $8::integer"),

		renew: own(refParams(param{"lease", "bigint"}), "due = h.n + h.lease", "h.kind = {inFlight} AND h.due > h.n"),
		release: own(refParams(param{"retention", "bigint"}, param{"new_answered", "boolean"}, param{"unused", "boolean"}),
			"kind = {releasedByOwner}, attempt = h.attempt - h.unused::int, answered = h.new_answered, due = h.n + h.retention, late = false, "+stripped,
			"h.kind = {inFlight} AND h.due > h.n"),
		// The tombstone of an unknown counts from when it became unknown.
		abandon: own(refParams(), "kind = {abandoned}, due = CASE WHEN h.kind = {lapsed} THEN h.due WHEN h.due > h.n THEN h.n + h.tombstone ELSE h.due + h.tombstone END",
			"h.kind IN ({inFlight}, {lapsed})"),

		lookup: fill("SELECT {columns}, {started} FROM {records} WHERE key = $1"),
		look:   fill(lookText),
		mark:   fill(markText),

		resolve: fill(resolveText),

		lapse:        fill(lapseText),
		forget:       fill(forgetText),
		drop:         fill(dropText),
		dropAttempts: fill(dropAttemptsText),

		room:   fill(roomText),
		stats:  fill(statsText),
		sample: fill(sampleText),
		bytes:  fill(bytesText),

		ping:    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean",
		version: fill("SELECT version, compatible FROM {migration}"),
		attempt: fill(attemptText),
	}
	t.list = func(seg segment, scoped bool) string { return fill(listText(seg, scoped)) }
	return t
}
