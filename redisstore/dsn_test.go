package redisstore_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/redisstore"
)

// No error, of whatever is wrong with a DSN, holds its password.
func TestPasswordsStayOutOfErrors(t *testing.T) {
	server := own(t, map[string]string{"requirepass": "other"})
	if server == nil {
		return
	}
	host := server.Addr()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, dsn := range []string{
		"redis://user:hunter2@", "redis://user:hunter2@host:port", "redis://user:hunter2@host:99999/0", "redis://user:hunter2@host/x",
		"redis://user:hunter2@host/0/1", "redis:user:hunter2@host", "user:hunter2@host", "postgres://user:hunter2@host", "redis://hunter2@host",
		"redis://user:hunter2%zz@host", "redis://user:hunter2@host?hunter2=1", "redis://user:hunter2@host?%zz=hunter2",
		"redis://user:hunter2@host?protocol=hunter2", "redis://user:hunter2@host?cluster=hunter2", "redis://user:hunter2@host?timeout=hunter2",
		"redis://user:hunter2@host?ca=/none", "rediss://user:hunter2@host?ca=/none", "rediss://user:hunter2@host?cert=/none&key=/none",
		"redis://user:hunter2@host?db=hunter2", "redis://user:hunter2@a,,b", "redis://user:hunter2@[::1", "redis://user:hunter2@::1",
		"redis://user:hunter2@a,b?cluster=false", "redis://user:hunter2@host?wait_replicas=hunter2", "redis://user:hunter2@host?prefix=hunter2{",
		"redis://user:hunter2@" + host, "redis://:hunter2@" + host, "redis://:hunter2@" + host + "?cluster=false&protocol=2",
		"redis://:hunter2@" + host + "," + host, "redis://:hunter2@" + host + "?cluster=true",
		"rediss://:hunter2@" + host + "?dial_timeout=1s", "redis://:hunter2@127.0.0.1:1", "redis://:hunter2@127.0.0.1:1,127.0.0.1:2",
		"redis://:hunter2@" + host + "?sentinel=none&sentinel_password=hunter2", "redis://u:hunter2@" + host + "?sentinel=none",
	} {
		s, err := redisstore.Open(ctx, dsn, nil)
		if err == nil {
			t.Errorf("%s is taken", dsn)
			s.Close()
			continue
		}
		if strings.Contains(err.Error(), "hunter2") && !strings.Contains(dsn, "prefix") {
			t.Errorf("the password is in: %v", err)
		}
		if !strings.HasPrefix(err.Error(), "redisstore: ") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	if ctx.Err() != nil {
		t.Error("it took too long")
	}
}

func TestDSNs(t *testing.T) {
	server := own(t, map[string]string{"requirepass": "p@ss/w:rd"})
	if server == nil {
		return
	}
	for _, dsn := range []string{
		"redis://:p%40ss%2Fw%3Ard@" + server.Addr(), "redis://default:p@ss/w:rd@" + server.Addr() + "/0", "valkey://:p@ss/w:rd@" + server.Addr() + "/3",
		"redis://:p@ss/w:rd@" + server.Addr() + "?cluster=false&db=2&client_name=test&dial_timeout=1s&timeout=2s&protocol=3",
	} {
		o, err := redisstore.OptionsOf(dsn, &redisstore.Options{SweepEvery: -1})
		must(t, err)
		client, err := redisstore.Connect(t.Context(), dsn)
		must(t, err)
		must(t, redisstore.Migrate(t.Context(), client, o))
		client.Close()
		s := opened(t, dsn, o)
		req := request(dsn)
		complete(t, s, grant(t, s, req), completion(req, "r"))
		must(t, s.Close())
		must(t, s.Close())
	}
	o, err := redisstore.OptionsOf("redis://host?prefix=p:&wait_replicas=2&wait_timeout=3s&partitions=64", nil)
	must(t, err)
	if o.Prefix != "p:" || o.WaitReplicas != 2 || o.WaitTimeout != 3*time.Second || o.Partitions != 64 {
		t.Errorf("%+v", o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	must(t, server.Pause())
	if _, err := redisstore.Connect(ctx, "redis://:p@ss/w:rd@"+server.Addr()); err == nil {
		t.Error("a server that is stopped was connected to")
	}
	must(t, server.Resume())
}

// A server that does not know how a client signs in repeats the command, with the
// password in it.
func TestOldServersRepeatThePassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "*") {
						fmt.Fprint(c, "-ERR unknown command `AUTH`, with args beginning with: `user` `hunter2`, \r\n")
					}
				}
			}()
		}
	}()
	for _, dsn := range []string{
		"redis://user:hunter2@" + l.Addr().String(), "redis://user:hunter2@" + l.Addr().String() + "?cluster=false",
		"redis://" + l.Addr().String() + "?sentinel=m&sentinel_user=user&sentinel_password=hunter2",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := redisstore.Connect(ctx, dsn)
		cancel()
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Connect: %v", err)
		}
	}
}
