package filestore

import _ "github.com/idem-go/idem/driver"
