// Package free finds ports that nobody uses.
package free

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Port returns a port of 127.0.0.1 on which nobody listens, nor on those that
// lie at the distances above it. It is below the ports that the kernel gives
// to connections, so that none takes it while its server is down.
func Port(distances ...int) (int, error) {
	var last error
	for range 200 {
		port := 10000 + rand.IntN(12000)
		last = unused(port)
		for _, d := range distances {
			if last == nil {
				last = unused(port + d)
			}
		}
		if last == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("testserver: no free port: %w", last)
}

func unused(port int) error {
	l, err := net.Listen("tcp", Address(port))
	if err != nil {
		return err
	}
	return l.Close()
}

// Address returns the host:port of a port of 127.0.0.1.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
