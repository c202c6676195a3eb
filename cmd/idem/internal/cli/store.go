package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/idem-go/idem/cmd/idem/internal/stores"
)

// maxStoreFile bounds the file of --store-file, so that a wrong one is noticed.
const maxStoreFile = 16 << 10

// storeFlags are the two flags that name a store.
type storeFlags struct {
	fs         *pflag.FlagSet
	text, file string
}

// define adds the flags. An empty otherwise says that one of them is needed.
func (f *storeFlags) define(fs *pflag.FlagSet, otherwise string) {
	f.fs = fs
	fs.StringVar(&f.text, "store", otherwise, "the `DSN` of where records are kept; idem store --help lists them")
	fs.StringVar(&f.file, "store-file", "", "a `FILE` that holds the DSN, for one with a password: other users of this machine see command lines")
}

// dsn reads the flags. It opens nothing but the file.
func (f *storeFlags) dsn() (stores.DSN, error) {
	flag, text := "--store", f.text
	hint := "see idem store --help"
	if f.file != "" {
		if f.fs.Changed("store") {
			return stores.DSN{}, usage("--store and --store-file both name a store", "give one of them")
		}
		flag = "--store-file " + f.file
		b, err := readSmall(f.file, maxStoreFile)
		if err != nil {
			return stores.DSN{}, &usageError{what: flag + " cannot be read: " + reason(err), hint: "put the DSN into it, and nothing else", cause: err}
		}
		b = bytes.TrimSpace(b)
		if len(b) == 0 || bytes.ContainsAny(b, "\r\n") {
			return stores.DSN{}, usage(flag+" does not hold one line", "put the DSN into it, and nothing else")
		}
		text = string(b)
	} else if text == "" {
		return stores.DSN{}, usage("no store was named", "give one with --store or --store-file; see idem store --help")
	}
	d, err := stores.Parse(text)
	if err != nil {
		return stores.DSN{}, &usageError{what: flag + ": " + err.Error(), hint: hint, cause: err}
	}
	return d, nil
}

// errLarge says that a file is larger than anything that belongs into it.
var errLarge = errors.New("it is too large")

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errLarge
	}
	return b, err
}

// storeError makes an operator's sentence of a store that cannot be opened. The
// store says itself what is wrong and how to mend it.
func storeError(dsn stores.DSN, err error) error {
	hint := "another one is named with --store"
	switch {
	case stores.NeedsMigration(err):
		hint = "run idem store migrate with the same --store or --store-file"
	case dsn.NeedsSchema():
		hint = "idem store check, with the same --store or --store-file, says more once it can be reached"
	}
	return &usageError{what: "the store " + dsn.String() + " cannot be used: " + err.Error(), hint: hint, cause: err}
}

func newStore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Make a store's schema, or check its server",
		Long: `store prepares and checks what records are kept in. A DSN names it:

  memory:                       this process; forgotten at its end
  file:DIR                      a directory that one process has to itself
  sqlite:FILE                   a SQLite file that processes of one machine share
  postgres://USER:PASSWORD@HOST:5432/DATABASE
  mysql://USER:PASSWORD@HOST:3306/DATABASE      MySQL 8 and MariaDB
  redis://:PASSWORD@HOST:6379/0                 Redis 6.2 and Valkey; the hosts of
                                a cluster, or of sentinels, with commas between
  nats://USER:PASSWORD@HOST:4222/BUCKET         JetStream

What is special in a password is percent-encoded. A DSN with a password belongs
into a file that nobody else can read, which --store-file names: command lines
are seen by other users of the machine. No log and no error shows a password.

With TLS, and the server's certificate verified:

  postgres://…/DATABASE?sslmode=verify-full&sslrootcert=/etc/idem/ca.pem
  mysql://…/DATABASE?tls-ca=/etc/idem/ca.pem    or tls=true for a known authority
  rediss://…:6379/0?ca=/etc/idem/ca.pem
  tls://…:4222/BUCKET?ca=/etc/idem/ca.pem

Clients take further settings in the query; docs/operations.md names them.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage("no command was given", fmt.Sprintf("see %s --help", cmd.CommandPath()))
		},
	}
	cmd.AddCommand(newMigrate(), newCheck())
	return cmd
}
