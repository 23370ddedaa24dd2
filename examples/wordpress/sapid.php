<?php
/*
 * Plugin Name: sapid
 * Description: WordPress from an image of sapid: wp-content/mu-plugins/sapid.php, together with sapid.toml beside this file.
 *
 * An image is frozen in the middle of wp-settings.php. sapid_resume() does again, for the request that goes on from there,
 * what WordPress does for a request before that point. It changes nothing where there is no image.
 */
defined('ABSPATH') || exit;

/** Named by snapshot_rerun. In the order of wp-settings.php. */
function sapid_resume(): void
{
    wp_fix_server_vars();
    wp_maintenance();
    timer_start();
    wp_debug_mode();
    wp_cache_flush();          // options and users as the database has them now, not as the boot has read them
    ($GLOBALS['sapid_vars'])();
}

// $pagenow and what is known of the browser: vars.php without the function it declares.
$GLOBALS['sapid_vars'] = (static function () {
    $code = file_get_contents(ABSPATH . WPINC . '/vars.php');
    $end = strpos($code, 'function wp_is_mobile');

    return eval('return static function () {' . substr($code, strlen('<?php'), ($end ?: strlen($code)) - strlen('<?php')) . '};');
})();

// The image is made anew when a file has changed that its boot included. What the boot takes from the database as well, the
// list of plugins and the addresses, changes this file with it.
$stamp = WP_CONTENT_DIR . '/uploads/sapid-image.php';
if (!is_file($stamp)) {
    wp_mkdir_p(dirname($stamp));
    file_put_contents($stamp, "<?php\n");
}
include $stamp;
foreach (['active_plugins', 'siteurl', 'home', 'WPLANG'] as $option) {
    add_action("update_option_$option", static fn () => file_put_contents($stamp, '<?php // ' . uniqid() . "\n"));
}
unset($stamp, $option);
