module github.com/idem-go/idem/e2e

go 1.26

require github.com/idem-go/idem v0.1.0
