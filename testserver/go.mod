module github.com/idem-go/idem/testserver

go 1.25
