module github.com/idem-go/idem/drivertest/linearize

go 1.25

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/idem-go/idem v0.1.0
)
