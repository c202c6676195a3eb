module github.com/idem-go/idem/redisstore

go 1.25.0

require (
	github.com/idem-go/idem v0.1.0
	github.com/idem-go/idem/drivertest/linearize v0.1.0
	github.com/idem-go/idem/testserver v0.1.0
	github.com/redis/rueidis v1.0.79
)

require (
	github.com/anishathalye/porcupine v1.3.1 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
