module github.com/idem-go/idem/sqlitestore

go 1.26.0

require (
	github.com/idem-go/idem v0.1.0
	github.com/idem-go/idem/drivertest/linearize v0.1.0
	github.com/ncruces/go-sqlite3 v0.37.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/anishathalye/porcupine v1.3.1 // indirect
	github.com/ncruces/go-sqlite3-wasm/v6 v6.5.35401 // indirect
	github.com/ncruces/julianday v1.0.0 // indirect
)
