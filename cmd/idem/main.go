// Command idem puts idempotency in front of an HTTP service. See idem help.
package main

import (
	"context"
	"os"

	"github.com/idem-go/idem/cmd/idem/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
