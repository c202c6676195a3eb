module github.com/idem-go/idem/testserver/nats

go 1.25
