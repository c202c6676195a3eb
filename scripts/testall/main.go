// Command testall runs the tests of every module of go.work, the root's first,
// and ends with a line that counts them.
//
// The order of the tests is shuffled by a seed that it prints. Lines in which
// a test tells its own seed are shown also when it passes, and those in which
// it says NOT TESTED stand at the end, each once. Where IDEM_TEST_REQUIRE is all, a
// test that was skipped, or says that, counts as failed; MySQL 8 is not asked for.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.race, "race", "off", "race detector: on, off, or auto (on where there is a C compiler)")
	flag.StringVar(&o.seed, "seed", "", "seed of the order of tests; the time without it")
	flag.BoolVar(&o.short, "short", false, "leave out what takes long")
	flag.StringVar(&o.timeout, "timeout", "15m", "longest time for the tests of one package")
	flag.StringVar(&o.run, "run", "", "only the tests that match this `regexp`")
	flag.IntVar(&o.count, "count", 1, "how often each test runs")
	only := flag.String("modules", "", "only these modules, by their folders, with commas")
	flag.Parse()
	if err := run(o, *only); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	race, seed, timeout, run string
	short                    bool
	count                    int
}

func run(o options, only string) error {
	if o.seed == "" {
		o.seed = strconv.FormatInt(time.Now().UnixNano(), 10)
	}
	required := strings.Split(os.Getenv("IDEM_TEST_REQUIRE"), ",")
	all := slices.Contains(required, "all")
	if o.race == "auto" {
		o.race = "off"
		if out, err := exec.Command("go", "env", "CGO_ENABLED").Output(); err == nil && strings.TrimSpace(string(out)) == "1" {
			o.race = "on"
		} else if all || slices.Contains(required, "race") {
			return fmt.Errorf("testall: IDEM_TEST_REQUIRE asks for the race detector, which needs a C compiler")
		}
	}
	modules, err := workspace()
	if err != nil {
		return err
	}
	if only != "" {
		modules = strings.Split(only, ",")
	}
	fmt.Printf("seed %s, race detector %s, %s\n", o.seed, o.race, runtime.Version())
	sum := &summary{out: os.Stdout, skipsFail: all}
	start := time.Now()
	for _, dir := range modules {
		began := time.Now()
		fmt.Printf("\n== module %s\n", dir)
		if err := test(dir, o, sum); err != nil {
			fmt.Println(err)
			sum.broken++
		}
		fmt.Printf("== module %s: %.1fs\n", dir, time.Since(began).Seconds())
	}
	fmt.Printf("\nseed %s, %.1fs\n%s%s\n", o.seed, time.Since(start).Seconds(), sum.left(), sum)
	if !sum.ok() {
		return fmt.Errorf("testall: not all tests passed; this order again: make test SEED=%s", o.seed)
	}
	return nil
}

// workspace returns the folders of the modules of go.work.
func workspace() ([]string, error) {
	out, err := exec.Command("go", "work", "edit", "-json").Output()
	if err != nil {
		return nil, fmt.Errorf("testall: go work edit: %w", err)
	}
	var work struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal(out, &work); err != nil {
		return nil, fmt.Errorf("testall: go work edit: %w", err)
	}
	var dirs []string
	for _, u := range work.Use {
		dirs = append(dirs, filepath.Clean(u.DiskPath))
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return strings.Compare(rank(a), rank(b)) })
	return dirs, nil
}

func rank(dir string) string {
	if dir == "." {
		return ""
	}
	return dir
}

// test runs the tests of one module. A failing test is no error of its own:
// the summary has counted it.
func test(dir string, o options, sum *summary) error {
	args := []string{"test", "-json", "-shuffle=" + o.seed, "-timeout=" + o.timeout, "-count=" + strconv.Itoa(o.count)}
	if o.race == "on" {
		args = append(args, "-race")
	}
	if o.short {
		args = append(args, "-short")
	}
	if o.run != "" {
		args = append(args, "-run", o.run)
	}
	cmd := exec.Command("go", append(args, "./...")...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failed := sum.failed + sum.broken
	readErr := sum.read(out)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, out)
	}
	err = cmd.Wait()
	if _, werr := io.Copy(os.Stderr, &stderr); werr != nil {
		return werr
	}
	if readErr != nil {
		return fmt.Errorf("testall: reading what go test says in %s: %w", dir, readErr)
	}
	if err != nil && sum.failed+sum.broken == failed {
		return fmt.Errorf("testall: go test in %s: %w", dir, err)
	}
	return nil
}
