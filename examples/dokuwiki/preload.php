<?php
/**
 * To be DokuWiki's inc/preload.php, which its inc/init.php includes first of all: the libraries that every page needs and no
 * request changes are loaded once, into an image. Under another server it does nothing.
 */
if (function_exists('restore_state') && !restore_state()) {
    require_once DOKU_INC . 'vendor/autoload.php';
    require_once DOKU_INC . 'inc/load.php';
    snapshot_state();
}
