package memtx_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var mutants = flag.Bool("mutants", false, "run the suite of transactions against each seeded bug; takes a minute")

// mutant is a bug: a text of memtx.go and what stands in its place.
type mutant struct{ name, old, new string }

func seededBugs() []mutant {
	return []mutant{
		{"rows are visible before the commit", "	tx.rows = append(tx.rows, name)\n", "	tx.s.mu.Lock()\n	tx.s.rows[name]++\n	tx.s.mu.Unlock()\n"},
		{"the claim is visible before the commit", "	if o != nil {\n		return o.before, nil\n	}\n	rec, err", "	_ = o\n	rec, err"},
		{"work that failed is committed", "	if err != nil {\n		return driver.TxReply{}, 0, err\n	}\n	takes, answers", "	if err != nil {\n		_ = tx.Commit()\n		return driver.TxReply{}, 0, err\n	}\n	takes, answers"},
		{"a rollback keeps the claim", "		if !committed {\n", "		if !committed && false {\n"},
		{"a rollback counts the attempt", "driver.Release{Unused: true, Retention: req.Retention}", "driver.Release{Retention: req.Retention}"},
		{"a panic keeps the key open", "	defer func() {\n		tx.done = true\n", "	defer func() {\n		if p := recover(); p != nil {\n			panic(p)\n		}\n		tx.done = true\n"},
		{"a panic is swallowed", "	defer func() {\n		tx.done = true\n", "	defer func() {\n		_ = recover()\n		tx.done = true\n"},
		{"another's transaction is not waited for", "if req.Wait == 0 {", "if req.Wait >= 0 {"},
		{"another's transaction is waited for without end", "		case <-limit.C:\n", "		case <-make(chan struct{}):\n"},
		{"another's transaction is not seen", "		if o == nil {\n			defer s.mu.Unlock()\n			return s.claim(ctx, req)\n		}\n", "		if o == nil || true {\n			defer s.mu.Unlock()\n			return s.claim(ctx, req)\n		}\n"},
		{"the context is not looked at", "	if err == nil {\n		err = ctx.Err()\n	}\n", ""},
		{"arguments are not checked", "	if err := req.Check(); err != nil {\n		return driver.TxReply{}, err\n	}\n", ""},
		{"conflicts are not tried again", "		case !errors.Is(err, ErrConflict):", "		default:"},
		{"conflicts are tried for ever", "const maxTries = 5", "const maxTries = 1000"},
		{"each try is an attempt", "	if *counted == 0 {\n", "	if true {\n"},
		{"attempts are not counted", "	c.n++\n", "	c.n = 1\n"},
		{"attempts are counted for ever", "if c == nil || !now.Before(c.until) {", "if c == nil {"},
		{"the unknown is claimed without being asked", "Tombstone: forLong, Retry: req.Retry,", "Tombstone: forLong, Retry: true,"},
		{"the unknown is never claimed", "Tombstone: forLong, Retry: req.Retry,", "Tombstone: forLong, Retry: false,"},
		{"a lost claim completes", "	case rec.Token != ref.Token:\n", "	case false:\n"},
		{"a released claim completes", "	case rec.State == driver.StateAbsent && !released:\n", "	case released && false:\n"},
		{"a completed record completes again", "	case rec.State == driver.StateCompleted, rec.State == driver.StateForgotten:\n", "	case false:\n"},
		{"the transaction of a lost claim goes on", "	if err != nil {\n		tx.Rollback()\n		return false, err\n	}\n", "	if err != nil {\n		return false, err\n	}\n"},
		{"late is not said", "	return rec.State != driver.StateInFlight, nil\n", "	return false, nil\n"},
		{"the record is completed before the commit", "	tx.then = append(tx.then, func() error {\n		_, err := s.Store.Complete(context.WithoutCancel(ctx), ref, c)\n		return err\n	})\n", "	_, err = s.Store.Complete(context.WithoutCancel(ctx), ref, c)\n	return false, err\n"},
	}
}

// Each seeded bug still fits the code it is about; with -mutants, the suite finds
// it.
func TestMutants(t *testing.T) {
	b, err := os.ReadFile("memtx.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range seededBugs() {
		if n := strings.Count(string(b), m.old); n != 1 {
			t.Errorf("%s: its text is there %d times", m.name, n)
			continue
		}
		if *mutants {
			t.Run(m.name, func(t *testing.T) { m.dies(t, strings.Replace(string(b), m.old, m.new, 1)) })
		}
	}
}

func (m mutant) dies(t *testing.T, text string) {
	dir := t.TempDir()
	file := filepath.Join(dir, "memtx.go")
	whole, err := filepath.Abs("memtx.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {whole: file}})
	if err := errors.Join(err, os.WriteFile(file, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "overlay"), overlay, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-timeout=20s",
		"-overlay="+filepath.Join(dir, "overlay"), "-run=TestTransactions", ".").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Error("it lives")
	case !errors.As(err, &exit) || strings.Contains(string(out), "[build failed]"):
		t.Errorf("it does not build: %v\n%s", err, out)
	}
}
