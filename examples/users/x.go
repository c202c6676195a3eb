package users

import _ "github.com/idem-go/idem/driver"
