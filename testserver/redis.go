package testserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Redis starts a Redis (or a Valkey, where that is installed) that writes each
// command to its disk before it answers (appendfsync always) and evicts
// nothing. IDEM_TEST_REDIS_DSN names another.
func Redis(o *Options) (*Server, error) {
	if s := external("redis", "IDEM_TEST_REDIS_DSN", o); s != nil {
		return s, nil
	}
	prog, err := redisProgram("redis", nil, o)
	if err != nil {
		return nil, err
	}
	return start(prog, startDetails{jemalloc: true})
}

func redisProgram(name string, defaults map[string]string, o *Options) (Program, error) {
	server, err := program(nil, "redis-server", "valkey-server")
	if err != nil {
		return Program{}, err
	}
	return Program{
		Name: name,
		DSN:  "redis://127.0.0.1:{port}/0",
		Args: []string{server, "{dir}/redis.conf"},
		Prepare: func(dir, port string) error {
			settings := map[string]string{
				"bind": "127.0.0.1", "port": port, "dir": "data", "daemonize": "no", "save": "",
				"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction",
			}
			for k, v := range defaults {
				settings[k] = v
			}
			return configureRedis(dir, o.settings(settings))
		},
		Answers: redisAnswers,
		Options: o,
	}, nil
}

func configureRedis(dir string, settings map[string]string) error {
	var b strings.Builder
	for _, name := range sortedNames(settings) {
		value := settings[name]
		if value == "" {
			value = `""`
		}
		fmt.Fprintf(&b, "%s %s\n", name, value)
	}
	if err := errors.Join(os.Mkdir(dataDir(dir), 0o755), os.WriteFile(filepath.Join(dir, "redis.conf"), []byte(b.String()), 0o644)); err != nil {
		return fmt.Errorf("testserver: configuring redis: %w", err)
	}
	return nil
}

// redisAnswers pings. A server that reads its data says LOADING; any other error, such
// as one about a password, is an answer.
func redisAnswers(_ context.Context, c net.Conn) error {
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "-LOADING") {
		return errors.New("it is reading its data")
	}
	return nil
}
