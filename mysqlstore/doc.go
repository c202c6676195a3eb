// Package mysqlstore keeps the records of idem in MySQL and MariaDB.
package mysqlstore
