// Package natsstore keeps the records of idem in NATS JetStream.
package natsstore
