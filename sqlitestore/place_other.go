//go:build !linux

package sqlitestore

import "github.com/idem-go/idem/driver"

// place says that nobody looked.
func (c *checker) place(string) {
	c.found(driver.SeverityUnknown, "file system", "not looked at", "on this system the file's place is not looked at", "see that it is a local disk, with room")
}
