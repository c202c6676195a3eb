// Package docs holds what the pages say to what is there: that the tests they
// name exist, that their links lead somewhere, and that their programs compile.
package docs
