package servers

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// tap passes connections on to a Redis, and keeps what clients say.
type tap struct {
	listener net.Listener
	target   string
	conns    sync.WaitGroup
	mu       sync.Mutex
	heard    []*bytes.Buffer
	open     []net.Conn
}

func listenTap(target string) (*tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tap{listener: l, target: target}
	t.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.pass(c)
		}
	})
	return t, nil
}

func (t *tap) addr() string { return t.listener.Addr().String() }

func (t *tap) pass(client net.Conn) {
	server, err := net.Dial("tcp", t.target)
	if err != nil {
		_ = client.Close() // which says it
		return
	}
	heard := new(bytes.Buffer)
	t.mu.Lock()
	t.heard, t.open = append(t.heard, heard), append(t.open, client, server)
	t.mu.Unlock()
	t.conns.Go(func() {
		_, _ = io.Copy(io.MultiWriter(server, lockedWriter{&t.mu, heard}), client) // until either end closes
		_ = server.Close()
	})
	t.conns.Go(func() {
		_, _ = io.Copy(client, server) // the same
		_ = client.Close()
	})
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (t *tap) close() {
	_ = t.listener.Close() // nobody connects any more
	t.mu.Lock()
	for _, c := range t.open {
		_ = c.Close() // most are closed
	}
	t.mu.Unlock()
	t.conns.Wait()
}

// commands returns what was said so far, one connection after another.
func (t *tap) commands() [][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all [][]string
	for _, heard := range t.heard {
		r := bufio.NewReader(bytes.NewReader(heard.Bytes()))
		for {
			command, err := readCommand(r)
			if err != nil {
				break
			}
			all = append(all, command)
		}
	}
	return all
}

// readCommand reads an array of bulk strings, which is what clients send.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readCount(r, '*')
	if err != nil {
		return nil, err
	}
	command := make([]string, n)
	for i := range command {
		size, err := readCount(r, '$')
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		command[i] = string(b[:size])
	}
	return command, nil
}

func readCount(r *bufio.Reader, mark byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != mark {
		return 0, io.ErrUnexpectedEOF
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
