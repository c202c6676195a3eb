module github.com/idem-go/idem/sqlitestore

go 1.25

require github.com/idem-go/idem v0.1.0
