module github.com/idem-go/idem/mysqlstore

go 1.25

require (
	github.com/go-sql-driver/mysql v1.10.1
	github.com/idem-go/idem v0.1.0
	github.com/idem-go/idem/drivertest/linearize v0.1.0
	github.com/idem-go/idem/testserver v0.1.0
)

require (
	filippo.io/edwards25519 v1.2.0 // indirect
	github.com/anishathalye/porcupine v1.3.1 // indirect
)
