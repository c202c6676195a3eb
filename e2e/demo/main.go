// Command demo plays what idem is for, in front of a real service: the same
// request sent ten times, and a proxy that is killed while the service works.
// It counts the users from outside and says whether every promise held.
//
// DEMO_ONCE=1 stops everything at the end, with exit code 0 if every promise
// held and 1 if not; otherwise service and proxy go on until Ctrl-C.
// DEMO_BYPASS=1 sends the requests past the proxy, which shows that the demo
// notices a promise that is broken.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Stdout, os.Getenv("DEMO_ONCE") != "", os.Getenv("DEMO_BYPASS") != "")
	stop()
	os.Exit(code)
}

func run(ctx context.Context, out io.Writer, once, bypass bool) int {
	d := &demo{ctx: ctx, out: out, bypass: bypass}
	defer d.end()
	if err := d.play(); err != nil {
		if errors.Is(err, context.Canceled) {
			d.say("Stopped.")
			return 1
		}
		d.say("The demo could not be played: %v", err)
		return 1
	}
	d.chapter("The end")
	if len(d.broken) > 0 {
		for _, b := range d.broken {
			d.say("BROKEN: %s", b)
		}
	} else {
		d.say("Every promise held.")
	}
	if !once {
		d.leave()
	}
	if len(d.broken) > 0 {
		return 1
	}
	return 0
}

// play tells the story.
func (d *demo) play() error {
	d.chapter("Building the proxy and a small service that keeps users in SQLite")
	if err := d.build(); err != nil {
		return err
	}
	if err := d.startService(0); err != nil {
		return err
	}
	if err := d.startProxy(); err != nil {
		return err
	}
	d.say("The service listens on %s, and idem proxy on %s in front of it.", d.service.url, d.proxy.url)
	for _, scene := range []func() error{d.tenTimes, d.killed} {
		if err := scene(); err != nil {
			return err
		}
	}
	return nil
}

// leave lets the reader try it, until Ctrl-C.
func (d *demo) leave() {
	d.chapter("Yours to try, until Ctrl-C")
	d.tell(`  curl -i %[1]s/users -H 'Idempotency-Key: mine-1' -d '{"name":"You","email":"you@example.com","age":1}'
  curl -i %[1]s/users -H 'Idempotency-Key: mine-1' -d '{"name":"You","email":"you@example.com","age":1}'   # the same answer
  curl -i %[1]s/users -H 'Idempotency-Key: mine-1' -d '{"name":"Somebody else"}'                            # 422
  curl '%[2]s/users?email=you@example.com'                                                                 # one user
  curl %[3]s/v1/records                                                                                    # what idem keeps
`, d.proxy.url, d.service.url, d.proxy.admin)
	<-d.ctx.Done()
	fmt.Fprintln(d.out)
}
