// Package redisstore keeps the records of idem in Redis and Valkey.
package redisstore
