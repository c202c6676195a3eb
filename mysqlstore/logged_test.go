package mysqlstore_test

import (
	"database/sql"
	"errors"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

// InnoDB shows a commit before its log is written, and a server that is killed then
// has forgotten it. So whoever is told of another's completion is told after a
// commit of its own store, once for each completion. (That no answer is taken back is
// seen under kills: TestTrap44KilledEachSecondTx in e2e/shared.)
func TestTrap51NobodyIsToldBeforeTheLogIsWritten(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for name, o := range map[string]mysqlstore.Options{"mariadb": {}, "plain": mysqlstore.Options{}.Plain()} {
		t.Run(name, func(t *testing.T) {
			owner := b.open(t, o)
			o.Prefix = owner.prefix
			other := b.reopen(t, o)
			// mark is what each such commit changes; 0 while there was none.
			mark := func() (n int) {
				err := b.db.QueryRowContext(t.Context(), "SELECT attempts FROM "+owner.prefix+"attempts WHERE hash = REPEAT(x'00', 32)").Scan(&n)
				if err != nil && !errors.Is(err, sql.ErrNoRows) {
					t.Fatal(err)
				}
				return n
			}
			step := func(what string, writes bool, call func() (driver.State, error)) {
				t.Helper()
				before := mark()
				if state, err := call(); err != nil || state != driver.StateCompleted {
					t.Errorf("%s: %v, %v", what, state, err)
				}
				if (mark() != before) != writes {
					t.Errorf("%s: a commit was waited for: %v", what, !writes)
				}
			}
			claim := func(s *one, id string) func() (driver.State, error) {
				return func() (driver.State, error) {
					reply, err := s.Claim(t.Context(), claimOf("s", id))
					return reply.Record.State, err
				}
			}
			for _, id := range []string{"claimed", "looked up", "completed again", "asked for in a transaction"} {
				req := claimOf("s", id)
				ref := grant(t, owner, req)
				c := completionOf(req, "", "r")
				complete(t, owner, ref, c)
				step("its owner's replay", false, claim(owner, id))
				step("another's "+id, true, func() (driver.State, error) {
					switch id {
					case "looked up":
						r, err := other.Lookup(t.Context(), req.Key)
						return r.State, err
					case "completed again":
						_, err := other.Complete(t.Context(), ref, c)
						return driver.StateCompleted, err
					case "asked for in a transaction":
						reply, err := other.DoTx(t.Context(), txRequestOf("s", id), other.effect(id))
						return reply.Record.State, err
					}
					return claim(other, id)()
				})
				step("once more", false, claim(other, id))
			}
			// What is older than a minute is in the log.
			req := claimOf("s", "old")
			complete(t, owner, grant(t, owner, req), completionOf(req, "", "r"))
			b.exec(t, "UPDATE "+owner.prefix+"records SET since = since - 61000000 WHERE hash = ?", req.Key[:])
			step("an old one", false, claim(other, "old"))
		})
	}
}
