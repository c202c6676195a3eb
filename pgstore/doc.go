// Package pgstore keeps the records of idem in PostgreSQL.
package pgstore
